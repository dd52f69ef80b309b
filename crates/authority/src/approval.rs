//! Approvals: asked for by the door, granted by a person with their key, used once by exactly one plan.
//!
//! What counts is the signed record, not the row around it: digest, role, expiry and number of uses are read from what
//! the approver signed, and who may sign is read from the chain of events.

use std::collections::BTreeSet;
use std::time::Duration;

use contract::{
    Actor, ActorKind, Context, Effect, Error, ErrorKind, Outcome, Plan, PlanDigest, Request, Role,
    canonical_json, sha256_hex,
};
use jiff::Timestamp;
use ledger::{EventFilter, Ledger, NewEvent, Place, Row, Write};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::person::{Signer, names, people_only};
use crate::{Approved, People, Question, sealed_key};

/// How long an approval may wait, and how long it may be used once it was granted.
pub const APPROVAL_VALID: Duration = Duration::from_hours(24);

/// Whether the door itself saw a terminal on which a person can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// Standard input is a terminal, and the passphrase was typed there.
    Yes,
    /// Anything else.
    No,
}

/// Lists approvals, those that wait first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListApprovals {
    /// Only those in this state: `waiting`, `granted`, `denied`, `used`, `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

impl Request for ListApprovals {
    const NAME: &'static str = "approval.list";
    const SUMMARY: &'static str = "List approvals: what waits, for whom, and how others ended";
    const EXAMPLE: &'static str = "steward approval list --state waiting";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "approval.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Shows one approval with the exact plan it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowApproval {
    /// Id of the approval.
    pub id: String,
}

impl Request for ShowApproval {
    const NAME: &'static str = "approval.show";
    const SUMMARY: &'static str = "Show an approval with the exact statements of its plan";
    const EXAMPLE: &'static str = "steward approval show approval-0192f0c1a2b37c4d8e5f";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "approval.read";
    const POSITIONAL: &'static [&'static str] = &["id"];
}

/// Grants an approval with a person's key; the passphrase is asked for on the terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantApproval {
    /// Id of the approval.
    pub id: String,
    /// Who grants it; without it the only person who may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
}

impl Request for GrantApproval {
    const NAME: &'static str = "approval.grant";
    const SUMMARY: &'static str = "Approve exactly one plan, once, with your key";
    const EXAMPLE: &'static str = "steward approval grant approval-0192f0c1a2b37c4d8e5f --person anna";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "approval.decide";
    const POSITIONAL: &'static [&'static str] = &["id"];
}

/// Denies an approval with a person's key; the passphrase is asked for on the terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenyApproval {
    /// Id of the approval.
    pub id: String,
    /// Who denies it; without it the only person who may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// Why, for whoever asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Request for DenyApproval {
    const NAME: &'static str = "approval.deny";
    const SUMMARY: &'static str = "Refuse a plan, with a reason";
    const EXAMPLE: &'static str =
        "steward approval deny approval-0192f0c1a2b37c4d8e5f --person anna --reason 'not before the release'";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "approval.decide";
    const POSITIONAL: &'static [&'static str] = &["id"];
}

/// Where an approval stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// Nobody has decided.
    Waiting,
    /// Granted, not used yet.
    Granted,
    /// Refused.
    Denied,
    /// Used by the change it was for.
    Used,
    /// Nobody decided, or nobody used it, in time.
    Expired,
}

impl ApprovalState {
    const ALL: [ApprovalState; 5] = [
        ApprovalState::Waiting,
        ApprovalState::Granted,
        ApprovalState::Denied,
        ApprovalState::Used,
        ApprovalState::Expired,
    ];

    /// The name in the table and in output, such as `waiting`.
    pub fn as_str(self) -> &'static str {
        match self {
            ApprovalState::Waiting => "waiting",
            ApprovalState::Granted => "granted",
            ApprovalState::Denied => "denied",
            ApprovalState::Used => "used",
            ApprovalState::Expired => "expired",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// An approval as it stands in the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Approval {
    /// Its id.
    pub id: String,
    /// The request that waits, such as `migration.apply`.
    pub request: String,
    /// The request's arguments.
    pub arguments: Value,
    /// What will be different, in a sentence.
    pub summary: String,
    /// The action in the matrix.
    pub action: String,
    /// On what.
    pub subject: String,
    /// The plan that it is about.
    pub plan: PlanDigest,
    /// The task on whose behalf; empty for none.
    pub task: String,
    /// Who asked.
    pub requester: Actor,
    /// Any one of these roles may approve.
    pub roles: BTreeSet<Role>,
    /// Where it stands.
    pub state: ApprovalState,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was granted or denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Timestamp>,
    /// Who granted or denied it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    /// The record that was signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<Value>,
    /// When it was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Timestamp>,
    #[serde(skip)]
    signed: Option<(String, String)>,
}

/// What an approver signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    approval: String,
    project: String,
    plan: PlanDigest,
    request: String,
    action: String,
    subject: String,
    approver: String,
    role: Role,
    granted_at: Timestamp,
    expires_at: Timestamp,
    uses: u32,
    independence: String,
}

/// The approvals of all projects; which project is meant, the context says. Cheap to clone.
#[derive(Clone)]
pub struct Approvals {
    ledger: Ledger,
    people: People,
}

impl Approvals {
    /// The approvals recorded in this ledger.
    pub fn new(ledger: Ledger) -> Self {
        let people = People::new(ledger.clone());
        Self { ledger, people }
    }

    /// Asks any holder of one of `roles` to approve exactly this plan, and keeps the plan for them to read. Asking
    /// again while the same question waits gives the approval that waits.
    ///
    /// # Errors
    ///
    /// `Invalid`: no role. `Forbidden`: the plan is of another project. What the ledger returns.
    pub async fn request(
        &self,
        ctx: &Context,
        question: &Question,
        plan: &Plan,
        roles: &[Role],
    ) -> Result<Approval, Error> {
        if roles.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "an approval needs a role that may give it"));
        }
        if plan.project != ctx.project() {
            return Err(Error::new(ErrorKind::Forbidden, "the plan is of another project"));
        }
        let roles: BTreeSet<Role> = roles.iter().copied().collect();
        let digest = plan.digest();
        let waiting = self.of_plan(ctx, &digest).await?.into_iter().find(|approval| {
            approval.state == ApprovalState::Waiting
                && approval.roles == roles
                && approval.requester == *ctx.actor()
                && approval.action == question.action
        });
        if let Some(approval) = waiting {
            return Ok(approval);
        }
        let id = format!("approval-{}", uuid::Uuid::now_v7().simple());
        let now = ctx.now();
        let expires = later(now);
        let plan_json = canonical_json(&serde_json::to_value(plan).expect("a plan holds only JSON values"));
        let event = NewEvent::new(
            "approval.requested",
            subject(&id),
            json!({
                "request": plan.request, "action": question.action, "subject": question.resource,
                "plan": digest, "roles": roles, "requester": ctx.actor(), "summary": plan.summary,
            }),
        );
        let write = Write::new()
            .exec(
                "INSERT INTO plans (digest, project, request, body, made_us) VALUES (?, ?, ?, ?, ?) \
                 ON CONFLICT (project, digest) DO UPDATE SET body = excluded.body",
                vec![
                    digest.0.as_str().into(),
                    ctx.project().into(),
                    plan.request.as_str().into(),
                    self.ledger.seal(plan_place(ctx, &digest), &plan_json),
                    now.into(),
                ],
            )
            .exec(
                "INSERT INTO approvals (id, project, request, arguments, summary, action, subject, plan_digest, task, \
                 requester, roles, state, created_us, expires_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting', ?, ?)",
                vec![
                    id.as_str().into(),
                    ctx.project().into(),
                    plan.request.as_str().into(),
                    canonical_json(&plan.arguments).into(),
                    plan.summary.as_str().into(),
                    question.action.as_str().into(),
                    question.resource.as_str().into(),
                    digest.0.as_str().into(),
                    ctx.task().unwrap_or_default().into(),
                    serde_json::to_string(ctx.actor()).expect("an actor is JSON").into(),
                    serde_json::to_string(&roles).expect("roles are JSON").into(),
                    now.into(),
                    expires.into(),
                ],
            )
            .event(event)
            .bump("approvals");
        self.ledger.write(ctx, write).await?;
        self.get(ctx, &id).await
    }

    /// All approvals of the project, those that wait first, then the newest.
    ///
    /// # Errors
    ///
    /// What the ledger returns.
    pub async fn all(&self, ctx: &Context) -> Result<Vec<Approval>, Error> {
        let rows = self
            .ledger
            .query(
                "SELECT * FROM approvals WHERE project = ? \
                 ORDER BY CASE state WHEN 'waiting' THEN 0 ELSE 1 END, created_us DESC, id LIMIT 1000",
                vec![ctx.project().into()],
            )
            .await?;
        rows.iter().map(|row| approval(ctx, row)).collect()
    }

    /// The approval with this id.
    ///
    /// # Errors
    ///
    /// `NotFound`: none in this project.
    pub async fn get(&self, ctx: &Context, id: &str) -> Result<Approval, Error> {
        let rows = self
            .ledger
            .query(
                "SELECT * FROM approvals WHERE project = ? AND id = ?",
                vec![ctx.project().into(), id.into()],
            )
            .await?;
        let row = rows.first().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no approval `{id}` in this project"))
                .hint("`steward approval list` shows them")
        })?;
        approval(ctx, row)
    }

    /// The list, as an answer.
    ///
    /// # Errors
    ///
    /// `Invalid`: unknown state. What the ledger returns.
    pub async fn list(&self, ctx: &Context, request: &ListApprovals) -> Result<Outcome, Error> {
        let state = match &request.state {
            None => None,
            Some(name) => Some(ApprovalState::parse(name).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, format!("no state `{name}`"))
                    .hint("waiting, granted, denied, used or expired")
            })?),
        };
        let mut approvals = self.all(ctx).await?;
        approvals.retain(|approval| state.is_none_or(|state| approval.state == state));
        let mut lines = Vec::new();
        for approval in &approvals {
            let roles: Vec<Role> = approval.roles.iter().copied().collect();
            lines.push(format!(
                "{}  {:<8} {:<18} {:<20} for {}\n    {}",
                approval.id,
                approval.state.as_str(),
                approval.action,
                approval.subject,
                names(&roles),
                approval.summary,
            ));
        }
        if approvals.is_empty() {
            lines.push("no approvals".to_owned());
        }
        Ok(Outcome::new(json!({ "approvals": approvals }), lines.join("\n")))
    }

    /// One approval with its plan, as an answer.
    ///
    /// # Errors
    ///
    /// `NotFound`. `Corrupt`: the plan that is stored is not the one the approval is about.
    pub async fn show(&self, ctx: &Context, request: &ShowApproval) -> Result<Outcome, Error> {
        let approval = self.get(ctx, &request.id).await?;
        let plan = self.plan(ctx, &approval).await?;
        let roles: Vec<Role> = approval.roles.iter().copied().collect();
        let mut lines = vec![format!(
            "{}  {}\n{}\n\naction     {}\non         {}\nasked by   {}\napproval   {}\nexpires    {}\nplan       {}",
            approval.id,
            approval.state.as_str(),
            approval.summary,
            approval.action,
            approval.subject,
            approval.requester,
            names(&roles),
            approval.expires_at,
            approval.plan,
        )];
        if let Some(approver) = &approval.approver {
            lines.push(format!("decided by {approver}"));
        }
        for step in &plan.steps {
            let marks = match (step.destructive, step.reversible) {
                (true, _) => "  (loses data)",
                (false, false) => "  (cannot be undone)",
                (false, true) => "",
            };
            lines.push(format!("\n{} {}{marks}", step.id, step.title));
            for statement in &step.statements {
                lines.push(format!("    {}", statement.sql.replace('\n', "\n    ")));
            }
        }
        Ok(Outcome::new(json!({ "approval": approval, "plan": plan }), lines.join("\n")))
    }

    /// Whose passphrase to ask for: `person` if it holds a role that may approve, or the only one who does.
    ///
    /// # Errors
    ///
    /// `Forbidden`: the person may not. `NotFound`: nobody may, or no such approval. `Invalid`: several may, and none
    /// was named.
    pub async fn approver(&self, ctx: &Context, id: &str, person: Option<&str>) -> Result<String, Error> {
        let approval = self.get(ctx, id).await?;
        let roles: Vec<Role> = approval.roles.iter().copied().collect();
        let able: Vec<String> = self.able(ctx, &approval).await?;
        match (person, able.as_slice()) {
            (Some(name), _) if able.iter().any(|able| able == name) => Ok(name.to_owned()),
            (Some(name), _) => {
                Err(Error::new(ErrorKind::Forbidden, format!("`{name}` may not approve this"))
                    .with("needed", names(&roles))
                    .hint(if able.is_empty() {
                        nobody(&roles)
                    } else {
                        format!("these people may: {}", able.join(", "))
                    }))
            }
            (None, [only]) => Ok(only.clone()),
            (None, []) => Err(Error::new(ErrorKind::NotFound, "nobody in this project may approve this")
                .hint(nobody(&roles))),
            (None, several) => Err(Error::new(ErrorKind::Invalid, "say who approves")
                .hint(format!("add `--person` and one of: {}", several.join(", ")))),
        }
    }

    /// Grants an approval: signs a record that is good for one use of exactly its plan until it expires.
    ///
    /// # Errors
    ///
    /// `Forbidden`: an agent, a schedule or Steward asks; no terminal; the person holds no role that may; or asked for
    /// it and is not alone. `Denied`: wrong passphrase. `Conflict`: it does not wait any more. `Corrupt`: the stored
    /// plan is another.
    pub async fn grant(
        &self,
        ctx: &Context,
        request: &GrantApproval,
        passphrase: SecretString,
        terminal: Terminal,
    ) -> Result<Outcome, Error> {
        people_only(ctx, "approves")?;
        if terminal == Terminal::No {
            return Err(Error::new(ErrorKind::Forbidden, "approvals are granted at a terminal")
                .hint("run the command in a terminal and type the passphrase there"));
        }
        let approval = self.waiting(ctx, &request.id).await?;
        self.plan(ctx, &approval).await?;
        let name = self.approver(ctx, &request.id, request.person.as_deref()).await?;
        let alone = self.able(ctx, &approval).await?.len() == 1;
        let independence = match approval.requester.kind {
            ActorKind::Person if approval.requester.name == name && alone => "self_confirmed",
            ActorKind::Person if approval.requester.name == name => {
                return Err(Error::new(ErrorKind::Forbidden, "whoever asks does not approve")
                    .with("person", &name)
                    .hint("another holder of the role approves it"));
            }
            ActorKind::Local => "requester_unproven",
            _ => "second_person",
        };
        let (person, pair) = self.people.unlock(ctx, &name, passphrase).await?;
        let role = approval.roles.intersection(&person.roles).next().copied().ok_or_else(|| {
            Error::new(ErrorKind::Forbidden, format!("`{name}` holds no role that may approve this"))
        })?;
        let now = ctx.now();
        let record = Record {
            approval: approval.id.clone(),
            project: ctx.project().to_owned(),
            plan: approval.plan.clone(),
            request: approval.request.clone(),
            action: approval.action.clone(),
            subject: approval.subject.clone(),
            approver: name.clone(),
            role,
            granted_at: now,
            expires_at: later(now),
            uses: 1,
            independence: independence.to_owned(),
        };
        let value = serde_json::to_value(&record).expect("a record is JSON");
        let text = canonical_json(&value);
        let signature = sealed_key::sign(&pair, &text);
        let event = NewEvent::new("approval.granted", subject(&approval.id), value.clone());
        let write = Write::new()
            .exec_expecting(
                "UPDATE approvals SET state = 'granted', decided_us = ?, approver = ?, record = ?, signature = ?, \
                 expires_us = ? WHERE project = ? AND id = ? AND state = 'waiting'",
                vec![
                    now.into(),
                    name.as_str().into(),
                    text.into(),
                    signature.into(),
                    record.expires_at.into(),
                    ctx.project().into(),
                    approval.id.as_str().into(),
                ],
                1,
            )
            .event(event)
            .bump("approvals");
        self.ledger.write(ctx, write).await?;
        let how = match independence {
            "self_confirmed" => "their own request, as the only person who may",
            "requester_unproven" => "a request of someone unproven",
            _ => "another's request",
        };
        Ok(Outcome::new(
            json!({"id": approval.id, "state": "granted", "record": value}),
            format!(
                "{name} granted {} as {role}: {how}; good for one use of plan {} until {}",
                approval.id,
                approval.plan.short(),
                record.expires_at
            ),
        ))
    }

    /// Denies an approval.
    ///
    /// # Errors
    ///
    /// As [`Approvals::grant`]; whoever asked may deny.
    pub async fn deny(
        &self,
        ctx: &Context,
        request: &DenyApproval,
        passphrase: SecretString,
        terminal: Terminal,
    ) -> Result<Outcome, Error> {
        people_only(ctx, "decides approvals")?;
        if terminal == Terminal::No {
            return Err(Error::new(ErrorKind::Forbidden, "approvals are denied at a terminal")
                .hint("run the command in a terminal and type the passphrase there"));
        }
        let approval = self.waiting(ctx, &request.id).await?;
        let name = self.approver(ctx, &request.id, request.person.as_deref()).await?;
        self.people.unlock(ctx, &name, passphrase).await?;
        let reason = request.reason.clone().unwrap_or_default();
        let event = NewEvent::new(
            "approval.denied",
            subject(&approval.id),
            json!({"approver": name, "reason": reason, "plan": approval.plan}),
        );
        let write = Write::new()
            .exec_expecting(
                "UPDATE approvals SET state = 'denied', decided_us = ?, approver = ? \
                 WHERE project = ? AND id = ? AND state = 'waiting'",
                vec![
                    ctx.now().into(),
                    name.as_str().into(),
                    ctx.project().into(),
                    approval.id.as_str().into(),
                ],
                1,
            )
            .event(event)
            .bump("approvals");
        self.ledger.write(ctx, write).await?;
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        Ok(Outcome::new(
            json!({"id": approval.id, "state": "denied", "approver": name, "reason": reason}),
            format!("{name} denied {}{because}", approval.id),
        ))
    }

    /// The approvals that were granted for exactly this plan, verified; what expired is left out.
    ///
    /// # Errors
    ///
    /// `Forbidden`: one of them is forged, was used before, or its approver is unknown.
    pub async fn find_granted(&self, ctx: &Context, plan: &PlanDigest) -> Result<Vec<Approved>, Error> {
        let mut approved = Vec::new();
        for approval in self.of_plan(ctx, plan).await? {
            if approval.state == ApprovalState::Granted {
                approved.push(self.verified(ctx, &approval, plan).await?);
            }
        }
        Ok(approved)
    }

    /// The approval with this id, verified for exactly this plan.
    ///
    /// # Errors
    ///
    /// `NotFound`. `NeedsApproval`: it waits still. `Forbidden`: it is for another plan, expired, denied, used, forged,
    /// or its approver is unknown; the message says which.
    pub async fn verify(&self, ctx: &Context, id: &str, plan: &PlanDigest) -> Result<Approved, Error> {
        let approval = self.get(ctx, id).await?;
        match approval.state {
            ApprovalState::Waiting => {
                Err(Error::new(ErrorKind::NeedsApproval, "the approval was not granted yet")
                    .with("approval", id))
            }
            ApprovalState::Granted => self.verified(ctx, &approval, plan).await,
            ApprovalState::Denied => {
                Err(refused(&approval.id, "the approval was denied", "ask again after a talk"))
            }
            ApprovalState::Used => Err(used(&approval.id)),
            ApprovalState::Expired => Err(expired(&approval.id)),
        }
    }

    /// The approvals with which an interrupted change was begun, verified, so that it can be resumed. They were used by
    /// this intent and count for nothing else.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such unfinished intent. `Forbidden`: as [`Approvals::verify`].
    pub async fn of_intent(&self, ctx: &Context, intent: &str) -> Result<Vec<Approved>, Error> {
        let rows = self
            .ledger
            .query(
                "SELECT plan_digest, approval FROM intents WHERE project = ? AND id = ? AND finished_us IS NULL",
                vec![ctx.project().into(), intent.into()],
            )
            .await?;
        let row = rows.first().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no unfinished intent `{intent}` in this project"))
        })?;
        let plan = PlanDigest(row.get_text("plan_digest")?.to_owned());
        let mut approved = Vec::new();
        for id in row.get_opt_text("approval")?.unwrap_or_default().split(',').filter(|id| !id.is_empty()) {
            let approval = self.get(ctx, id).await?;
            if approval.state != ApprovalState::Used {
                return Err(refused(
                    id,
                    "the approval was not used by this change",
                    "ask for the change again",
                ));
            }
            // Whoever approved may have left since: what they had approved and what was begun is not left half-done.
            let used = EventFilter {
                subject: Some(subject(id)),
                ..EventFilter::project(ctx.project()).kind("approval.used").limit(1)
            };
            let events = self.ledger.events(used).await?;
            let used = events.first().ok_or_else(|| {
                refused(id, "the trail does not say that the approval was used", "ask for the change again")
            })?;
            let signer = self.people.proven_before(ctx, &named_record(&approval)?.approver, used.seq).await?;
            let record = signed_record(ctx, &approval, &plan, &signer)?;
            // Its time was judged when the change began.
            approved.push(approved_by(ctx, &approval, record, i64::MAX));
        }
        Ok(approved)
    }

    /// Adds to the write that begins a change that these approvals are used up: if one no longer is what it was, the
    /// whole write fails with `Conflict`.
    #[must_use]
    pub fn consume(&self, ctx: &Context, write: Write, approved: &[Approved]) -> Write {
        approved.iter().fold(write, |write, approval| {
            write
                .exec_expecting(
                    "UPDATE approvals SET state = 'used', used_us = ? \
                     WHERE project = ? AND id = ? AND plan_digest = ? AND state = 'granted' AND used_us IS NULL",
                    vec![
                        ctx.now().into(),
                        ctx.project().into(),
                        approval.id.as_str().into(),
                        approval.plan_digest.as_str().into(),
                    ],
                    1,
                )
                .event(NewEvent::new(
                    "approval.used",
                    subject(&approval.id),
                    json!({"plan": approval.plan_digest, "approver": approval.approver, "role": approval.role}),
                ))
        })
    }

    /// Marks what has expired; gives how many.
    ///
    /// # Errors
    ///
    /// What the ledger returns.
    pub async fn expire(&self, ctx: &Context) -> Result<u64, Error> {
        let due = self
            .ledger
            .query(
                "SELECT id FROM approvals WHERE project = ? AND state IN ('waiting', 'granted') AND expires_us <= ?",
                vec![ctx.project().into(), ctx.now().into()],
            )
            .await?;
        let mut count = 0;
        for row in &due {
            let id = row.get_text("id")?;
            let write = Write::new()
                .exec(
                    "UPDATE approvals SET state = 'expired' \
                     WHERE project = ? AND id = ? AND state IN ('waiting', 'granted')",
                    vec![ctx.project().into(), id.into()],
                )
                .event(NewEvent::new("approval.expired", subject(id), json!({})))
                .bump("approvals");
            self.ledger.write(ctx, write).await?;
            count += 1;
        }
        Ok(count)
    }

    /// People who hold a role that may approve it.
    async fn able(&self, ctx: &Context, approval: &Approval) -> Result<Vec<String>, Error> {
        let people = self.people.all(ctx).await?;
        Ok(people
            .into_iter()
            .filter(|person| !person.roles.is_disjoint(&approval.roles))
            .map(|person| person.name)
            .collect())
    }

    async fn waiting(&self, ctx: &Context, id: &str) -> Result<Approval, Error> {
        let approval = self.get(ctx, id).await?;
        if approval.state == ApprovalState::Waiting {
            return Ok(approval);
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("the approval does not wait; it is {}", approval.state.as_str()),
        )
        .with("approval", id)
        .hint("ask for the change again to open a new one")
        .with_retry(contract::Retry::Never))
    }

    /// The plan as it was stored, if it still is the one that the approval is about.
    async fn plan(&self, ctx: &Context, approval: &Approval) -> Result<Plan, Error> {
        let rows = self
            .ledger
            .query(
                "SELECT body FROM plans WHERE project = ? AND digest = ?",
                vec![ctx.project().into(), approval.plan.0.as_str().into()],
            )
            .await?;
        let corrupt = |why: &str| {
            Error::new(ErrorKind::Corrupt, format!("the stored plan {why}"))
                .with("approval", &approval.id)
                .with("plan", &approval.plan)
                .hint("the state file was edited; `steward audit verify` checks the trail")
        };
        let row = rows.first().ok_or_else(|| corrupt("is gone"))?;
        let body = self
            .ledger
            .unseal(plan_place(ctx, &approval.plan), row)
            .map_err(|error| corrupt("does not open").because(error))?
            .ok_or_else(|| corrupt("is gone"))?;
        if sha256_hex(body.as_bytes()) != approval.plan.0 {
            return Err(corrupt("is not the one that the approval is about"));
        }
        let plan: Plan =
            serde_json::from_str(&body).map_err(|error| corrupt("cannot be read").because(error))?;
        let same = plan.request == approval.request
            && plan.arguments == approval.arguments
            && plan.summary == approval.summary
            && plan.target == approval.subject;
        if same { Ok(plan) } else { Err(corrupt("does not match what the approval says about it")) }
    }

    async fn of_plan(&self, ctx: &Context, plan: &PlanDigest) -> Result<Vec<Approval>, Error> {
        let rows = self
            .ledger
            .query(
                "SELECT * FROM approvals WHERE project = ? AND plan_digest = ? ORDER BY created_us, id",
                vec![ctx.project().into(), plan.0.as_str().into()],
            )
            .await?;
        rows.iter().map(|row| approval(ctx, row)).collect()
    }

    /// Everything that makes a granted approval good now.
    async fn verified(
        &self,
        ctx: &Context,
        approval: &Approval,
        plan: &PlanDigest,
    ) -> Result<Approved, Error> {
        let record = self.signed_record(ctx, approval, plan).await?;
        if record.expires_at <= ctx.now() {
            return Err(expired(&approval.id));
        }
        let uses = EventFilter {
            subject: Some(subject(&approval.id)),
            ..EventFilter::project(ctx.project()).kind("approval.used").limit(1)
        };
        if approval.used_at.is_some() || !self.ledger.events(uses).await?.is_empty() {
            return Err(used(&approval.id));
        }
        let asks = ctx.actor();
        if asks.kind == ActorKind::Person
            && asks.name == record.approver
            && record.independence != "self_confirmed"
        {
            return Err(refused(
                &approval.id,
                "whoever asks does not approve",
                "another person carries it out",
            ));
        }
        let expires_us = record.expires_at.as_microsecond();
        Ok(approved_by(ctx, approval, record, expires_us))
    }

    /// The record, if its approver, who is still among the people, signed it for this approval and this plan.
    async fn signed_record(
        &self,
        ctx: &Context,
        approval: &Approval,
        plan: &PlanDigest,
    ) -> Result<Record, Error> {
        let name = named_record(approval)?.approver;
        let person = self.people.proven(ctx, &name).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                refused(&approval.id, "the approver is unknown or was removed", "ask for the change again")
                    .because(error)
            }
            _ => error.with("approval", &approval.id),
        })?;
        signed_record(ctx, approval, plan, &Signer { public_key: person.public_key, roles: person.roles })
    }
}

const FORGED: &str = "the state file was edited; `steward audit verify` checks the trail";

/// The record as it stands in the row; whether it is genuine is another question.
fn named_record(approval: &Approval) -> Result<Record, Error> {
    let id = approval.id.as_str();
    let Some((text, _)) = &approval.signed else {
        return Err(refused(id, "the approval is forged: it was never signed", FORGED));
    };
    serde_json::from_str(text).map_err(|error| {
        refused(id, "the approval is forged: its record cannot be read", FORGED).because(error)
    })
}

/// The record, if this signer signed it, for this approval and this plan.
fn signed_record(
    ctx: &Context,
    approval: &Approval,
    plan: &PlanDigest,
    signer: &Signer,
) -> Result<Record, Error> {
    let id = approval.id.as_str();
    let record = named_record(approval)?;
    let genuine = approval
        .signed
        .as_ref()
        .is_some_and(|(text, signature)| sealed_key::verify(&signer.public_key, text, signature));
    if !genuine {
        return Err(refused(id, "the approval is forged: the signature does not match", FORGED));
    }
    if record.plan != *plan || approval.plan != *plan {
        return Err(refused(
            id,
            "the approval is for another plan",
            "the plan or the state it was made for has changed; ask for the change again",
        ));
    }
    let same = record.approval == id
        && record.project == ctx.project()
        && record.request == approval.request
        && record.action == approval.action
        && record.subject == approval.subject
        && record.uses == 1
        && approval.approver.as_deref() == Some(&record.approver);
    if !same {
        return Err(refused(id, "the approval is forged: the row differs from what was signed", FORGED));
    }
    if !signer.roles.contains(&record.role) {
        return Err(refused(id, "the approver does not hold the role", "ask for the change again"));
    }
    Ok(record)
}

fn approved_by(ctx: &Context, approval: &Approval, record: Record, expires_us: i64) -> Approved {
    Approved {
        id: approval.id.clone(),
        project: ctx.project().to_owned(),
        plan_digest: record.plan.0,
        action: record.action,
        role: record.role,
        approver: record.approver,
        independence: record.independence,
        expires_us,
    }
}

fn refused(id: &str, why: &str, hint: &str) -> Error {
    Error::new(ErrorKind::Forbidden, why).with("approval", id).hint(hint)
}

fn used(id: &str) -> Error {
    refused(id, "the approval was used before", "an approval is good for one use; ask for the change again")
}

fn expired(id: &str) -> Error {
    refused(id, "the approval has expired", "ask for the change again")
}

fn nobody(roles: &[Role]) -> String {
    format!(
        "`steward person add NAME --role {}` adds someone who may",
        roles.first().map_or("pm", |role| role.as_str())
    )
}

fn subject(id: &str) -> String {
    format!("approval:{id}")
}

fn later(now: Timestamp) -> Timestamp {
    let valid = jiff::SignedDuration::try_from(APPROVAL_VALID).expect("a day is a duration");
    now.saturating_add(valid).unwrap_or(Timestamp::MAX)
}

fn approval(ctx: &Context, row: &Row) -> Result<Approval, Error> {
    let stored = row.get_text("state")?;
    let mut state = ApprovalState::parse(stored).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("an approval is in the unknown state `{stored}`"))
    })?;
    let expires_at = row.get_time("expires_us")?;
    if matches!(state, ApprovalState::Waiting | ApprovalState::Granted) && expires_at <= ctx.now() {
        state = ApprovalState::Expired;
    }
    let record = row.get_opt_text("record")?;
    let signature = row.get_opt_text("signature")?;
    Ok(Approval {
        id: row.get_text("id")?.to_owned(),
        request: row.get_text("request")?.to_owned(),
        arguments: row.get_json("arguments")?,
        summary: row.get_text("summary")?.to_owned(),
        action: row.get_text("action")?.to_owned(),
        subject: row.get_text("subject")?.to_owned(),
        plan: PlanDigest(row.get_text("plan_digest")?.to_owned()),
        task: row.get_text("task")?.to_owned(),
        requester: row.get_json("requester")?,
        roles: row.get_json("roles")?,
        state,
        created_at: row.get_time("created_us")?,
        expires_at,
        decided_at: row.get_opt_time("decided_us")?,
        approver: row.get_opt_text("approver")?.map(str::to_owned),
        record: record.and_then(|text| serde_json::from_str(text).ok()),
        used_at: row.get_opt_time("used_us")?,
        signed: record.zip(signature).map(|(record, signature)| (record.to_owned(), signature.to_owned())),
    })
}
/// Where the plan of this digest is kept.
fn plan_place<'a>(ctx: &'a Context, digest: &'a PlanDigest) -> Place<'a> {
    Place { table: "plans", project: ctx.project(), key: &digest.0, column: "body" }
}
