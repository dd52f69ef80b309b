//! The one door: every request, whoever asks, is decided, done, verified and recorded here.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use authority::{
    Approvals, Approved, Authority, Decision, Facts, People, Question, Tokens, WRONG_PASSPHRASES_MAX,
};
use contract::{
    Actor, ActorKind, Answer, AnswerStatus, Clock, Context, Decided, Door, Effect, Error, ErrorKind,
    Evidence, Finding, Outcome, Permit, Plan, PlanDigest, RequestSpec, SecretSource, Severity, SystemClock,
    Trigger,
};
use futures::future::BoxFuture;
use gateway::{Fingerprints, Rotations, VirtualKeys};
use ledger::{Ledger, NewEvent, Place, Write};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use vault::{KeySource, MasterKey, Redactor, Vault};

use crate::config::{Loaded, MasterKeyConfig};
use crate::mcp::Caller;
use crate::project::Project;
use crate::request::{self, Request};
use crate::{dispatch, holder};

/// How long a command without a daemon tries to deliver escalations before it ends.
const LAST_DELIVERY: Duration = Duration::from_secs(5);

/// What a way in adds to a request beside its arguments.
#[derive(Default, Clone)]
pub struct Options {
    /// Plan and decide, change nothing.
    pub dry_run: bool,
    /// A secret value or passphrase, which is never part of the arguments.
    pub secret: Option<SecretString>,
    /// The passphrase of the person who vouches, where one is needed.
    pub voucher: Option<SecretString>,
    /// A person sits at a terminal and typed the secret there.
    pub terminal: bool,
    /// The plan that was shown and confirmed: no other one is carried out.
    pub shown: Option<PlanDigest>,
    /// Whoever asked may see the value of a key that is made: a person or program of theirs, never an agent over MCP.
    pub reveal: bool,
}

/// What the environment says, read once at the edge.
#[derive(Default, Clone)]
pub struct Surroundings {
    /// Environment variables that `master_key.environment` may name.
    pub variables: BTreeMap<String, String>,
}

/// Steward with its state and its projects open.
pub struct Steward {
    ledger: Ledger,
    vault: Arc<Vault>,
    projects: RwLock<BTreeMap<String, Arc<Project>>>,
    specs: OnceLock<Vec<RequestSpec>>,
    redactor: Redactor,
    fingerprints: Fingerprints,
    holder: String,
    clock: Arc<dyn Clock>,
    state: PathBuf,
    key: Arc<KeySource>,
    /// Itself, for changes that outlive whoever asked for them.
    this: Weak<Steward>,
    /// Changes that run to their end whatever becomes of the caller.
    changes: TaskTracker,
    under_way: Arc<Mutex<HashSet<String>>>,
}

/// Says that this process is carrying out an intent, until it is dropped.
pub(crate) struct UnderWay {
    intents: Arc<Mutex<HashSet<String>>>,
    id: String,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.intents.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Steward {
    /// Opens the state that these project files share, and the projects.
    ///
    /// # Errors
    ///
    /// `Invalid`: the files name different states or the same project twice. Otherwise as the vault's and the
    /// ledger's: a missing or wrong master key, a corrupt or newer state. Nothing was changed then.
    pub async fn open(files: Vec<Loaded>, surroundings: &Surroundings) -> Result<Arc<Steward>, Error> {
        let first =
            files.first().ok_or_else(|| Error::new(ErrorKind::Invalid, "no project file was given"))?;
        let state = first.state_path();
        for other in &files[1..] {
            if other.state_path() != state {
                return Err(Error::new(ErrorKind::Invalid, "the project files name different state files")
                    .with("file", other.file.display())
                    .with("state", other.state_path().display())
                    .hint(format!("set `state` in all of them to one file, such as `{}`", state.display())));
            }
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let dir = state.parent().unwrap_or(Path::new(".")).to_owned();
        let source = key_source(first, &dir, surroundings)?;
        let fresh = !state.exists();
        let master = if fresh && !source.holds_key()? {
            crate::init::make_state_dir(&dir)?;
            match MasterKey::create(&source) {
                // Another first command made it a moment ago.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => MasterKey::load(&source)?,
                made => made?,
            }
        } else {
            MasterKey::load(&source)?
        };
        // The policies are parsed while the state is opened; both take a while.
        let policies = tokio::task::spawn_blocking(|| Authority::built_in().map(drop));
        let keys = ledger::Keys { seal: master.derive("ledger/seal"), sign: master.derive("ledger/sign") };
        let options =
            ledger::Options { clock: Arc::clone(&clock), ..ledger::Options::new(head_file(&state)) };
        let ledger = Ledger::open(&state, keys, options).await?;
        policies.await.map_err(|cause| {
            Error::new(ErrorKind::Other, "cannot read the built-in policies").because(cause)
        })??;
        let vault = Arc::new(Vault::new(ledger.clone(), &master));
        let redactor = vault.redactor().clone();
        let fingerprints = Fingerprints::new(&master.derive("gateway/virtual_keys"));
        let mut projects = BTreeMap::new();
        for loaded in files {
            let name = loaded.config.project.clone();
            let file = loaded.file.clone();
            let secrets: Arc<dyn SecretSource> = Arc::clone(&vault) as Arc<dyn SecretSource>;
            if projects.insert(name.clone(), Arc::new(Project::open(loaded, secrets)?)).is_some() {
                return Err(Error::new(ErrorKind::Invalid, format!("two files name the project `{name}`"))
                    .with("file", file.display())
                    .hint("give each project its own name"));
            }
        }
        let steward = Arc::new_cyclic(|this| Steward {
            ledger,
            vault,
            projects: RwLock::new(projects),
            specs: OnceLock::new(),
            redactor,
            fingerprints,
            holder: holder::this_process(),
            clock,
            state,
            key: Arc::new(source),
            this: Weak::clone(this),
            changes: TaskTracker::new(),
            under_way: Arc::default(),
        });
        Ok(steward)
    }

    /// All requests there are.
    pub fn specs(&self) -> &[RequestSpec] {
        self.specs.get_or_init(request::specs)
    }

    /// Steward's own state.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What waits for people.
    pub fn approvals(&self) -> Approvals {
        Approvals::new(self.ledger.clone())
    }

    /// Who holds keys.
    pub fn people(&self) -> People {
        People::new(self.ledger.clone())
    }

    /// The bearer tokens.
    pub fn tokens(&self) -> Tokens {
        Tokens::new(self.ledger.clone())
    }

    /// How virtual keys are hashed.
    pub fn fingerprints(&self) -> &Fingerprints {
        &self.fingerprints
    }

    /// The virtual keys of the AI gateway.
    pub fn virtual_keys(&self) -> VirtualKeys {
        VirtualKeys::new(self.ledger.clone(), self.fingerprints.clone())
    }

    /// Rotations of providers' keys.
    pub fn rotations(&self) -> Rotations {
        Rotations::new(self.ledger.clone(), Vault::clone(&self.vault))
    }

    /// The secrets.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// The state file.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where the master key lies.
    pub(crate) fn key_source(&self) -> Arc<KeySource> {
        Arc::clone(&self.key)
    }

    /// This process, as leases and intents name it.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Marks the intent as being carried out by this process; `None` when it is already.
    pub(crate) fn take_up(&self, intent: &str) -> Option<UnderWay> {
        let fresh = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(intent.to_owned());
        fresh.then(|| UnderWay { intents: Arc::clone(&self.under_way), id: intent.to_owned() })
    }

    /// Waits until no change is under way, for this long at most; says whether it came to that.
    pub async fn settled(&self, patience: Duration) -> bool {
        self.changes.close();
        let settled = tokio::time::timeout(patience, self.changes.wait()).await.is_ok();
        self.changes.reopen();
        settled
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The text with every known secret replaced.
    pub fn redact(&self, text: &str) -> String {
        self.redactor.redact(text).into_owned()
    }

    /// The open projects, by name.
    pub fn projects(&self) -> Vec<Arc<Project>> {
        self.projects.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Puts a project that was read again in the place of the old one.
    pub fn replace_project(&self, project: Arc<Project>) {
        let name = project.name().to_owned();
        self.projects.write().unwrap_or_else(PoisonError::into_inner).insert(name, project);
    }

    /// The project of this name.
    ///
    /// # Errors
    ///
    /// `NotFound`: it is not open here.
    pub fn project(&self, name: &str) -> Result<Arc<Project>, Error> {
        self.projects.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("the project `{name}` is not open here"))
                .hint("start with its `--project-file`")
        })
    }

    /// Who holds this bearer token. A wrong one is recorded and escalated.
    ///
    /// # Errors
    ///
    /// `Forbidden`: no token, or an unknown, expired or revoked one.
    pub async fn authenticate(&self, token: Option<SecretString>) -> Result<Caller, Error> {
        let refuse = || {
            Error::new(ErrorKind::Forbidden, "no valid token")
                .hint("send `Authorization: Bearer …`; `steward token create NAME` makes a token")
        };
        let Some(token) = token else { return Err(refuse()) };
        let now = self.clock.now();
        if let Some((project, actor)) = self.tokens().check(now, &token).await?
            && self.project(&project).is_ok()
        {
            return Ok(Caller { project, actor });
        }
        // Which project was meant cannot be known: every project that is open here hears of it.
        for project in self.projects() {
            let ctx = Context::new(project.name(), Actor::system()).with_clock(Arc::clone(&self.clock));
            let escalation = pm::NewEscalation {
                trigger: Trigger::DataAccessViolation,
                severity: Severity::Warning,
                title: "a request came with a token that is not valid".into(),
                detail: "it was refused; nothing was read or changed".into(),
                subject: format!("project:{}", project.name()),
                evidence: Vec::new(),
                dedup_key: "bad_token".into(),
            };
            self.raise(&ctx, escalation).await?;
        }
        Err(refuse())
    }

    /// Opens an escalation, or counts it when the same one is open.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub async fn raise(&self, ctx: &Context, escalation: pm::NewEscalation) -> Result<String, Error> {
        let project = self.project(ctx.project())?;
        let webhooks = project.webhooks_for(escalation.trigger);
        pm::raise(ctx, &self.ledger, &webhooks, escalation).await
    }

    /// Decides, does, verifies and records one request.
    ///
    /// # Errors
    ///
    /// As [`Door::submit`].
    pub fn submit_with<'a>(
        &'a self,
        ctx: &'a Context,
        name: &'a str,
        arguments: Value,
        options: Options,
    ) -> BoxFuture<'a, Result<Answer, Error>> {
        // Boxed here, so that all behind the door is compiled once and not with each way in.
        Box::pin(self.take_in(ctx, name, arguments, options))
    }

    async fn take_in(
        &self,
        ctx: &Context,
        name: &str,
        arguments: Value,
        options: Options,
    ) -> Result<Answer, Error> {
        let started = Instant::now();
        let mut request = Request::parse(name, &arguments)?;
        if options.dry_run && request.effect() == Effect::Read {
            request.plan_only()?;
        }
        let kept = Request::leads_to_changes(request.name(), request.effect());
        if kept && self.arguments(&request) != request.arguments() {
            return Err(Error::new(ErrorKind::Invalid, "the arguments hold the value of a secret")
                .with("request", request.name())
                .hint("plans and tasks are kept, and shown to whoever approves: name the secret instead"));
        }
        let request = Arc::new(request);
        let project = self.project(ctx.project())?;
        let result = match request.effect() {
            Effect::Read => self.answer(ctx, &project, &request, &options).await,
            Effect::Change => self.change(ctx, &project, &request, &options).await,
        };
        let mut answer = match result {
            Ok(answer) => answer,
            Err(error) => {
                self.record_failure(ctx, &request, &error).await?;
                return Err(error);
            }
        };
        answer.elapsed_ms = (started.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        Ok(answer)
    }

    /// A request that only looks.
    async fn answer(
        &self,
        ctx: &Context,
        project: &Arc<Project>,
        request: &Request,
        options: &Options,
    ) -> Result<Answer, Error> {
        let question = Self::question(project, request, None)?;
        let mut decision = project.authority().decide(ctx, &question, &[]);
        if !decision.is_permitted() {
            let plan = bare_plan(ctx, request, "a read that needs approval");
            let granted = self.granted(ctx, &plan, &plan.digest()).await?;
            decision = project.authority().decide(ctx, &question, &granted);
            if !decision.is_permitted() {
                return self.refused(ctx, request, &plan, &question, &decision).await;
            }
            // Used up before the read, so that one approval never serves two.
            self.ledger.write(ctx, self.approvals().consume(ctx, Write::new(), &granted)).await?;
        }
        let mut outcome = dispatch::read(self, ctx, project, request, options).await?;
        self.redact_outcome(&mut outcome);
        self.ledger.add_evidence(ctx, request.name(), &outcome.evidence).await?;
        let body = json!({
            "request": request.name(), "arguments": self.arguments(request), "decision": "permitted",
        });
        let subject = request.subject(ctx.project());
        self.ledger.append_later(ctx, NewEvent::new(format!("{}.answered", request.name()), subject, body));
        self.finish(ctx, request, outcome, AnswerStatus::Done, decision.decided(), None).await
    }

    /// A request that changes something: plan, decide, intent, do, outcome.
    async fn change(
        &self,
        ctx: &Context,
        project: &Arc<Project>,
        request: &Arc<Request>,
        options: &Options,
    ) -> Result<Answer, Error> {
        if !options.dry_run {
            crate::reconcile::store_of(self, ctx, project, request).await?;
        }
        let planned = dispatch::plan(self, ctx, project, request).await?;
        let plan = planned.plan;
        let digest = plan.digest();
        if options.shown.as_ref().is_some_and(|shown| *shown != digest) {
            return Err(Error::new(ErrorKind::Conflict, "the plan is no longer the one that was shown")
                .with("plan", digest.short())
                .with_retry(contract::Retry::Never)
                .hint("ask for the change again, and read the new plan"));
        }
        let mut question = Self::question(project, request, Some(&plan))?;
        question.facts.verified_backup_minutes = self.verified_backup(ctx, &plan).await?;
        let mut planned_outcome = Outcome {
            findings: planned.findings,
            evidence: planned.evidence,
            ..Outcome::new(Value::Null, "")
        };
        self.redact_outcome(&mut planned_outcome);
        let Outcome { findings, evidence, .. } = planned_outcome;
        // At once, also for a plan that is only looked at: what an answer names can be shown.
        self.ledger.add_evidence(ctx, request.name(), &evidence).await?;
        if planned.nothing_to_do {
            let decision = project.authority().decide(ctx, &question, &[]);
            let outcome = Outcome {
                findings,
                evidence,
                ..Outcome::new(
                    json!({ "nothing_to_do": true, "summary": plan.summary }),
                    format!("{}\n", plan.summary),
                )
            };
            return self
                .finish(ctx, request, outcome, AnswerStatus::Done, decision.decided(), Some(digest))
                .await;
        }
        let (mut decision, mut permit) = project.authority().rule(ctx, &question, &plan, &[])?;
        // Approvals are looked for only where the matrix does not permit without one; the permit then rests on them.
        let mut approved = Vec::new();
        if permit.is_none() {
            approved = self.granted(ctx, &plan, &digest).await?;
            if !approved.is_empty() {
                (decision, permit) = project.authority().rule(ctx, &question, &plan, &approved)?;
            }
        }
        if options.dry_run {
            let outcome = Outcome {
                value: json!({ "plan": plan, "digest": digest }).into(),
                text: dispatch::plan_text(&plan, &decision),
                findings,
                evidence,
            };
            return self
                .finish(ctx, request, outcome, AnswerStatus::Planned, decision.decided(), Some(digest))
                .await;
        }
        let Some(permit) = permit else {
            return self.refused(ctx, request, &plan, &question, &decision).await;
        };
        let change = Permitted {
            request: Arc::clone(request),
            findings,
            evidence,
            approved,
            options: options.clone(),
            decided: decision.decided(),
            plan,
            digest,
            permit,
        };
        let this = self.this.upgrade().expect("whoever asks holds it");
        let (ctx, project) = (ctx.clone(), Arc::clone(project));
        // Not in the caller's future: a client that goes away, or a deadline, would drop it half-way, and what was
        // begun would stay open as long as this process lives. The context still cancels it, and that is recorded.
        let carried_out = async move { this.carry_out(&ctx, &project, change).await };
        self.changes.spawn(carried_out.in_current_span()).await.unwrap_or_else(|cause| {
            Err(Error::new(ErrorKind::Other, "the change ended in the middle")
                .because(cause)
                .hint("the next change, or the next start, finds out how far it came; please report this"))
        })
    }

    /// From intent to outcome, whoever waits for it.
    async fn carry_out(
        &self,
        ctx: &Context,
        project: &Arc<Project>,
        change: Permitted,
    ) -> Result<Answer, Error> {
        let Permitted { request, plan, digest, permit, approved, options, findings, evidence, mut decided } =
            change;
        let (intent, _under_way) = self.begin(ctx, &request, &plan, &digest, &permit, &approved).await?;
        let done = dispatch::perform(self, ctx, project, &request, &permit, &plan, &options)
            .instrument(tracing::debug_span!("perform"))
            .await;
        let (done, made) = match done {
            Ok(dispatch::Done { outcome, made }) => (Ok(outcome), made),
            Err(error) => (Err(error), None),
        };
        let mut outcome = self.conclude(ctx, request.name(), &plan, &intent, done).await?;
        if !matches!(*request, Request::TokenCreate(_)) {
            self.redact_outcome(&mut outcome); // A new token is shown once, to whoever made it.
        }
        if let Some(made) = made {
            // What the trail keeps is written; only the answer to whoever asked holds the value.
            let text = outcome.text.trim_end();
            if options.reveal {
                let value = secrecy::ExposeSecret::expose_secret(&made);
                outcome.text = format!("{text}\n\n{value}\n");
                outcome.value["value"] = json!(value);
            } else {
                outcome.text = format!("{text}\n{}\n", crate::ai::NOT_FOR_AGENTS);
            }
        }
        // The change is there: who asked for it may be gone, or out of time, but its evidence is kept.
        let recording = recording(ctx);
        self.ledger.add_evidence(&recording, request.name(), &outcome.evidence).await?;
        outcome.findings.splice(0..0, findings);
        outcome.evidence.splice(0..0, evidence);
        let by = |approval: &Approved| {
            format!("{} as {} ({})", approval.approver(), approval.role(), approval.independence())
        };
        decided.approvers = approved.iter().map(by).collect();
        let status = AnswerStatus::Done;
        let mut answer = self.finish(&recording, &request, outcome, status, decided, Some(digest)).await?;
        answer.approval = permit.approval().map(str::to_owned);
        if let (Some(approved), Value::Object(value)) = (approved.first(), &mut *answer.value) {
            value.insert("approver".into(), json!(approved.approver()));
        }
        Ok(answer)
    }

    /// The valid approvals of this plan. A forged or replayed one is a matter for Security.
    async fn granted(&self, ctx: &Context, plan: &Plan, digest: &PlanDigest) -> Result<Vec<Approved>, Error> {
        let found = self.approvals().find_granted(ctx, digest).await;
        if let Err(error) = &found
            && error.kind() == ErrorKind::Forbidden
        {
            let escalation = pm::NewEscalation {
                trigger: Trigger::SecurityViolation,
                severity: Severity::Critical,
                title: format!("an approval for `{}` on {} is not genuine", plan.request, plan.target),
                detail: format!("{}; nothing has changed", error.message()),
                subject: plan.target.clone(),
                evidence: Vec::new(),
                dedup_key: format!("forged:{digest}"),
            };
            self.raise(ctx, escalation).await?;
        }
        found
    }

    /// Records the intent and uses up the approval, in one transaction. What comes with the id is kept until the end.
    ///
    /// # Errors
    ///
    /// `Conflict`: the approval was used meanwhile; nothing was written.
    async fn begin(
        &self,
        ctx: &Context,
        request: &Request,
        plan: &Plan,
        digest: &PlanDigest,
        permit: &Permit,
        approved: &[Approved],
    ) -> Result<(String, UnderWay), Error> {
        let id = format!("in-{}", uuid::Uuid::now_v7().simple());
        let under_way = self.take_up(&id).expect("the id is new");
        let now_us = ctx.now().as_microsecond();
        let body = serde_json::to_value(plan).expect("a plan is JSON");
        let actor = serde_json::to_string(ctx.actor()).expect("an actor is JSON");
        let place = Place { table: "plans", project: ctx.project(), key: &digest.0, column: "body" };
        let mut write = Write::new()
            .exec(
                "INSERT INTO plans (digest, project, request, body, made_us) VALUES (?, ?, ?, ?, ?) \
                 ON CONFLICT (project, digest) DO NOTHING",
                vec![
                    digest.0.clone().into(),
                    ctx.project().into(),
                    request.name().into(),
                    self.ledger.seal(place, &contract::canonical_json(&body)),
                    now_us.into(),
                ],
            )
            .exec(
                "INSERT INTO intents (id, project, request, subject, plan_digest, approval, actor, task, holder, begun_us) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                vec![
                    id.clone().into(),
                    ctx.project().into(),
                    request.name().into(),
                    plan.target.clone().into(),
                    digest.0.clone().into(),
                    permit.approval().map(str::to_owned).into(),
                    actor.into(),
                    ctx.task().unwrap_or_default().into(),
                    self.holder.clone().into(),
                    now_us.into(),
                ],
            );
        write = self.approvals().consume(ctx, write, approved);
        let event = json!({
            "intent": id, "plan": digest, "summary": plan.summary, "action": permit.action(),
            "approval": permit.approval(), "arguments": plan.arguments, "steps": plan.steps.len(),
        });
        let write =
            write.event(NewEvent::new(format!("{}.intent", request.name()), plan.target.clone(), event));
        self.ledger.write(ctx, write).await?;
        Ok((id, under_way))
    }

    /// Records how a change ended. A crash before this leaves the intent open, and the next start reconciles it.
    ///
    /// # Errors
    ///
    /// What the change itself failed with.
    async fn conclude(
        &self,
        ctx: &Context,
        name: &str,
        plan: &Plan,
        intent: &str,
        done: Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        let (outcome, body) = match &done {
            Ok(outcome) => {
                let mut answer = (*outcome.value).clone();
                self.redactor.redact_json(&mut answer);
                ("done", json!({ "intent": intent, "outcome": "done", "answer": answer }))
            }
            Err(error) => {
                let error = self.redact(&error.to_string());
                ("failed", json!({ "intent": intent, "outcome": "failed", "error": error }))
            }
        };
        let write = Write::new()
            .exec(
                "UPDATE intents SET finished_us = ?, outcome = ? WHERE id = ? AND finished_us IS NULL",
                vec![ctx.now().as_microsecond().into(), outcome.into(), intent.into()],
            )
            .event(NewEvent::new(format!("{name}.outcome"), plan.target.clone(), body));
        self.ledger.write(&recording(ctx), write).await?;
        done
    }

    /// The answer of a request that the matrix did not permit.
    async fn refused(
        &self,
        ctx: &Context,
        request: &Request,
        plan: &Plan,
        question: &Question,
        decision: &Decision,
    ) -> Result<Answer, Error> {
        let digest = plan.digest();
        let short = decision.decided();
        let mut answer = Answer {
            request: request.name().to_owned(),
            status: AnswerStatus::Forbidden,
            value: json!({ "digest": digest, "summary": plan.summary }).into(),
            text: String::new(),
            findings: Vec::new(),
            evidence: Vec::new(),
            decided: short.clone(),
            plan: Some(digest.clone()),
            approval: None,
            escalation: None,
            elapsed_ms: 0.0,
        };
        let body = json!({
            "request": request.name(), "arguments": self.arguments(request), "decision": short, "plan": digest,
        });
        let event = NewEvent::new(format!("{}.refused", request.name()), plan.target.clone(), body);
        match decision {
            Decision::NeedsApproval { roles, .. } => {
                answer.status = AnswerStatus::Waiting;
                let id = self.approvals().request(ctx, question, plan, roles).await?.id;
                let who = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ");
                answer.text = format!(
                    "waits for approval by {who}: {}\nplan {}: {}\nnothing has changed\n\n\
                     show it:    steward approval show {id}\napprove it: steward approval grant {id}\n",
                    short.reason,
                    digest.short(),
                    plan.summary,
                );
                answer.value["approval"] = json!(id);
                answer.approval = Some(id);
            }
            Decision::Escalate { to, .. } => {
                answer.status = AnswerStatus::Escalated;
                self.ledger.append(ctx, event).await?;
                let escalation = pm::NewEscalation {
                    trigger: Trigger::DecisionRequired,
                    severity: Severity::Warning,
                    title: format!("{} asks for `{}` on {}", ctx.actor(), question.action, question.resource),
                    detail: format!("{}; plan {}: {}", short.reason, digest.short(), plan.summary),
                    subject: plan.target.clone(),
                    evidence: Vec::new(),
                    dedup_key: format!("escalate:{}:{}", question.action, question.resource),
                };
                let id = self.raise(ctx, escalation).await?;
                answer.text = format!(
                    "escalated to {to}: {}\nnothing has changed; see `steward inbox` ({id})\n",
                    short.reason
                );
                answer.escalation = Some(id);
            }
            Decision::Forbidden { .. } | Decision::Permitted { .. } => {
                self.ledger.append(ctx, event).await?;
                let escalation = pm::NewEscalation {
                    trigger: Trigger::DataAccessViolation,
                    severity: Severity::Warning,
                    title: format!(
                        "{} was refused `{}` on {}",
                        ctx.actor(),
                        question.action,
                        question.resource
                    ),
                    detail: short.reason.clone(),
                    subject: plan.target.clone(),
                    evidence: Vec::new(),
                    dedup_key: format!("refused:{}:{}:{}", ctx.actor(), question.action, question.resource),
                };
                let id = self.raise(ctx, escalation).await?;
                answer.text = format!(
                    "refused: {}\nrule: {}\nnothing has changed\n",
                    short.reason,
                    short.policies.join(", ")
                );
                answer.escalation = Some(id);
            }
        }
        Ok(answer)
    }

    /// The arguments as they are recorded.
    fn arguments(&self, request: &Request) -> Value {
        let mut arguments = request.arguments();
        self.redactor.redact_json(&mut arguments);
        arguments
    }

    /// Replaces known secrets in everything that leaves or is stored.
    fn redact_outcome(&self, outcome: &mut Outcome) {
        for evidence in &mut outcome.evidence {
            evidence.statement = self.redact(&evidence.statement);
            self.redactor.redact_json(&mut evidence.answer);
        }
        for finding in &mut outcome.findings {
            finding.title = self.redact(&finding.title);
            finding.object = self.redact(&finding.object);
            finding.recommendation = finding.recommendation.as_deref().map(|text| self.redact(text));
        }
        // A schema stays one unless a secret is in it: one look at its JSON instead of a tree to walk through.
        let clean = outcome.value.schema().is_some_and(|schema| {
            let json = serde_json::to_string(schema).expect("a schema is JSON");
            self.redactor.is_clean_json(&json)
        });
        if !clean {
            self.redactor.redact_json(&mut outcome.value);
        }
        if let Cow::Owned(text) = self.redactor.redact(&outcome.text) {
            outcome.text = text;
        }
    }

    /// Turns a room's outcome into the answer, and escalates the findings that demand it.
    async fn finish(
        &self,
        ctx: &Context,
        request: &Request,
        outcome: Outcome,
        status: AnswerStatus,
        decided: Decided,
        plan: Option<PlanDigest>,
    ) -> Result<Answer, Error> {
        let mut escalation = None;
        for finding in &outcome.findings {
            let Some(trigger) = finding.escalate else { continue };
            let subject = request.subject(ctx.project());
            let new = pm::NewEscalation {
                trigger,
                severity: finding.severity,
                title: finding.title.clone(),
                detail: finding.recommendation.clone().unwrap_or_default(),
                subject: subject.clone(),
                evidence: finding.evidence.clone(),
                dedup_key: format!("{}:{subject}:{}", finding.code, finding.object),
            };
            escalation = Some(self.raise(ctx, new).await?);
        }
        Ok(Answer {
            request: request.name().to_owned(),
            status,
            value: outcome.value,
            text: outcome.text,
            findings: outcome.findings,
            evidence: outcome.evidence.iter().map(|evidence| evidence.id.clone()).collect(),
            decided,
            plan,
            approval: None,
            escalation,
            elapsed_ms: 0.0,
        })
    }

    async fn record_failure(&self, ctx: &Context, request: &Request, error: &Error) -> Result<(), Error> {
        let body = json!({
            "request": request.name(), "arguments": self.arguments(request), "kind": format!("{:?}", error.kind()),
            "error": self.redact(&error.to_string()),
        });
        let subject = request.subject(ctx.project());
        self.ledger
            .append_later(ctx, NewEvent::new(format!("{}.failed", request.name()), subject.clone(), body));
        if error.kind() == ErrorKind::Denied
            && let Some((_, person)) = error.context().iter().find(|(name, _)| *name == "person")
            && self.people().wrong_passphrases(ctx, person).await? >= WRONG_PASSPHRASES_MAX
        {
            let escalation = pm::NewEscalation {
                trigger: Trigger::SecurityViolation,
                severity: Severity::Critical,
                title: format!("wrong passphrases were given for `{person}` again and again"),
                detail: "someone may be guessing; nothing was approved".into(),
                subject: format!("person:{person}"),
                evidence: Vec::new(),
                dedup_key: format!("passphrase:{person}"),
            };
            self.raise(ctx, escalation).await?;
        }
        if is_failed_backup(ctx, request, error) {
            let escalation = pm::NewEscalation {
                trigger: Trigger::BackupFailure,
                severity: Severity::Critical,
                title: format!("`{}` of {subject} failed: {}", request.name(), error.message()),
                detail: self.redact(&error.to_string()),
                subject: subject.clone(),
                evidence: Vec::new(),
                dedup_key: format!("backup:{subject}"),
            };
            self.raise(ctx, escalation).await?;
        }
        if error.kind() == ErrorKind::Corrupt && !request.name().starts_with("audit.") {
            let escalation = pm::NewEscalation {
                trigger: Trigger::DataCorruption,
                severity: Severity::Critical,
                title: format!("{} found damaged data: {}", request.name(), error.message()),
                detail: self.redact(&error.to_string()),
                subject: subject.clone(),
                evidence: Vec::new(),
                dedup_key: format!("corrupt:{subject}"),
            };
            self.raise(ctx, escalation).await?;
        }
        Ok(())
    }

    /// What the matrix is asked; every fact is computed here, none is taken from the caller.
    ///
    /// # Errors
    ///
    /// `Invalid`: a path leads out of the project folder.
    pub(crate) fn question(
        project: &Project,
        request: &Request,
        plan: Option<&Plan>,
    ) -> Result<Question, Error> {
        let resource = match plan {
            Some(plan) => plan.target.clone(),
            None => {
                crate::backups::store_of(project, request).unwrap_or_else(|| request.subject(project.name()))
            }
        };
        let environment = crate::ai::environment(project);
        // What people write to a model is about people, whatever else it is.
        let personal_data = matches!(request, Request::PromptsShow(_));
        let mut facts = Facts { environment, personal_data, ..Facts::default() };
        if let Some(plan) = plan {
            facts.destructive = plan.destructive();
            facts.reversible = plan.reversible();
            facts.cost_usd_nanos = plan.cost_usd_nanos;
        }
        if let Some(path) = resource.strip_prefix("path:") {
            // A link from a folder of ours into somebody else's does not make it ours.
            facts.path = Some(crate::files::real_relative(&project.loaded().dir, path)?);
        }
        Ok(Question { action: request.action().to_owned(), resource, facts })
    }

    /// Age of the newest backup of the plan's store that was restored and compared; not looked for where nothing is lost.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub(crate) async fn verified_backup(&self, ctx: &Context, plan: &Plan) -> Result<Option<u64>, Error> {
        let Some(store) = plan.target.strip_prefix("store:") else { return Ok(None) };
        if !plan.destructive() && plan.reversible() {
            return Ok(None);
        }
        let Some(backup) = backup::newest_proven(ctx, &self.ledger, store).await? else { return Ok(None) };
        let age_s = ctx.now().as_second() - backup.point_at.unwrap_or(backup.begun_at).as_second();
        // One from the future proves nothing.
        Ok(u64::try_from(age_s).ok().map(|age_s| age_s.div_ceil(60)))
    }

    /// Writes what is queued and the copies of the audit head. Called once before the process ends.
    ///
    /// # Errors
    ///
    /// As the ledger's; `Denied` or `Unavailable` when a copy of the head cannot be written.
    pub async fn close(&self) -> Result<(), Error> {
        self.settled(LAST_DELIVERY).await;
        self.ledger.flush().await?;
        for project in self.projects() {
            if !project.loaded().config.webhooks.is_empty() && crate::daemon::running(&self.state).is_none() {
                let ctx = Context::new(project.name(), Actor::system()).with_timeout(LAST_DELIVERY);
                if let Err(error) = crate::daemon::deliver(self, &ctx, &project).await {
                    // The request itself is done; the delivery stays queued.
                    tracing::warn!(error = self.redact(&error.to_string()), "cannot deliver escalations now");
                }
            }
            crate::audit_copy::copy_head(self, &project).await?;
        }
        Ok(())
    }
}

/// Whether backups are in danger by a request that failed: a person sees the error and mends the argument, a schedule has nobody
/// who reads it, so that all counts which it could not do, also where the database, the repository or the rights are gone.
fn is_failed_backup(ctx: &Context, request: &Request, error: &Error) -> bool {
    let by_itself = ctx.actor().kind == ActorKind::Schedule;
    match (request, error.kind()) {
        (_, ErrorKind::Canceled) => false,
        // It is due again at the next start.
        _ if by_itself && ctx.cancellation().is_cancelled() => false,
        // Looked at by its age: it is tried again and again.
        (Request::BackupFollow(_), _) => false,
        (Request::BackupRun(_) | Request::BackupVerify(_), kind) => {
            let mistyped = matches!(kind, ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Forbidden);
            by_itself || !mistyped
        }
        (request, _) => by_itself && request.name().starts_with("backup."),
    }
}

/// A change that may begin.
struct Permitted {
    request: Arc<Request>,
    plan: Plan,
    digest: PlanDigest,
    permit: Permit,
    approved: Vec<Approved>,
    options: Options,
    findings: Vec<Finding>,
    evidence: Vec<Evidence>,
    decided: Decided,
}

/// The same context without deadline and cancellation: also who canceled gets the outcome recorded.
fn recording(ctx: &Context) -> Context {
    let recording = Context::new(ctx.project(), ctx.actor().clone()).with_clock(ctx.clock());
    match ctx.task() {
        Some(task) => recording.with_task(task),
        None => recording,
    }
}

#[async_trait]
impl Door for Steward {
    fn requests(&self) -> &[RequestSpec] {
        self.specs()
    }

    async fn submit(&self, ctx: &Context, name: &str, mut arguments: Value) -> Result<Answer, Error> {
        let changes = self.specs().iter().any(|spec| spec.name == name && spec.effect == Effect::Change);
        let dry_run = changes
            && arguments.as_object_mut().and_then(|map| map.remove("dry_run")) == Some(Value::Bool(true));
        // A task's step that is a task itself would run without end.
        self.submit_with(ctx, name, arguments, Options { dry_run, ..Options::default() }).await
    }
}

/// A plan of one recorded action without statements, for changes of Steward's own state.
pub(crate) fn bare_plan(ctx: &Context, request: &Request, summary: &str) -> Plan {
    Plan {
        request: request.name().to_owned(),
        arguments: request.arguments(),
        project: ctx.project().to_owned(),
        target: request.subject(ctx.project()),
        summary: summary.to_owned(),
        steps: Vec::new(),
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    }
}

/// Where the audit trail's signed head lies.
pub(crate) fn head_file(state: &Path) -> PathBuf {
    state.with_file_name("audit.head")
}

fn key_source(loaded: &Loaded, dir: &Path, surroundings: &Surroundings) -> Result<KeySource, Error> {
    Ok(match &loaded.config.master_key {
        MasterKeyConfig::Default => KeySource::File(dir.join("master.key")),
        MasterKeyConfig::File(path) => KeySource::File(loaded.dir.join(path)),
        MasterKeyConfig::Environment(name) => {
            let value = surroundings.variables.get(name).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, format!("the environment variable `{name}` is not set"))
                    .with("file", loaded.file.display())
                    .with("key", "master_key.environment")
                    .hint(format!("set `{name}` to the master key"))
            })?;
            KeySource::Environment { value: SecretString::from(value.clone()) }
        }
        MasterKeyConfig::Keyring(service) => {
            KeySource::Keyring { service: service.clone(), user: loaded.config.project.clone() }
        }
    })
}
