//! Rotation of providers' keys as a procedure that proves itself: add the new key, try it with a real call, let both
//! serve, drain the old one, take it out of service, record what was seen.
//!
//! Each step is a row in the state before the next begins, and every transition names the state it expects. So a
//! process that dies leaves a rotation that any other process can finish, and two that work on the same one do no harm.
//! Until the canary call has succeeded, the new version serves nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use contract::ai::{Failure, FailureClass};
use contract::{
    Context, Effect, Error, ErrorKind, Evidence, Finding, Outcome, Permit, Plan, PlanStep, Request, Severity,
    StepMode, Trigger,
};
use jiff::{SignedDuration, Timestamp};
use ledger::{Ledger, NewEvent, Row, Write};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vault::Vault;

use crate::key::GENERATION;

/// What is added to a secret's name for the value that shall follow it.
pub const NEXT_SUFFIX: &str = ".next";

/// How long both versions serve when nothing else is asked for.
const OVERLAP_DEFAULT: Duration = Duration::from_mins(1);
/// Longest such time.
const OVERLAP_MAX: Duration = Duration::from_hours(24 * 7);
/// Overlaps up to this long are waited for by whoever asked; the daemon goes on with longer ones.
const WAITED_FOR_MAX: Duration = Duration::from_mins(2);
/// Longest wait for calls on the old version to end.
const DRAIN_MAX: Duration = Duration::from_mins(15);
/// How often a rotation that waits is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Canary calls before a fault that is not the key's counts.
const CANARY_TRIES: u32 = 3;
/// A rotation that nobody has worked on for this long is taken up by the daemon.
const ABANDONED: Duration = Duration::from_mins(2);

/// Replaces keys of a provider by new ones, each verified by a call before it serves; the old one serves until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKeys {
    /// Name of the provider in the project file.
    pub provider: String,
    /// Only the key in this secret. Needed when the provider has several and `staged` is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Take the new values from the secrets with `.next` behind the name, put there before; for schedules and many keys.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
    /// Seconds for which both versions serve. Default: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_s: Option<u32>,
}

impl Request for RotateKeys {
    const NAME: &'static str = "keys.rotate";
    const SUMMARY: &'static str =
        "Replace a provider's key: canary call, overlap, drain, proof; the value is typed or piped in";
    const EXAMPLE: &'static str = "steward ai keys rotate openai --key openai/main";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "key.rotate";
    const POSITIONAL: &'static [&'static str] = &["provider"];
}

/// What a canary call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanaryAnswer {
    /// What was called, such as a model.
    pub what: String,
    /// The provider's status.
    pub status: u16,
    /// How long it took.
    pub elapsed: Duration,
}

/// Makes one small real call to a provider with a key. The gateway implements it; tests script it.
#[async_trait]
pub trait Canary: Send + Sync {
    /// Calls the provider, as the project file names it.
    ///
    /// # Errors
    ///
    /// What the provider or the way to it answered, classified.
    async fn call(&self, ctx: &Context, provider: &str, key: &SecretString) -> Result<CanaryAnswer, Failure>;
}

/// Where a rotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It was begun; the new value may or may not be in the vault.
    Adding,
    /// The new value is in the vault and serves nobody yet.
    Added,
    /// The canary call succeeded: the new version serves, the old one stands by.
    Overlap,
    /// The old version gets no new calls; those under way end.
    Draining,
    /// The old version is out of service.
    Done,
    /// The new version was refused; the old one serves as before.
    Failed,
    /// It ended before the new value was stored; nothing has changed.
    Undone,
}

impl Stage {
    const ALL: [Stage; 7] = [
        Stage::Adding,
        Stage::Added,
        Stage::Overlap,
        Stage::Draining,
        Stage::Done,
        Stage::Failed,
        Stage::Undone,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Adding => "adding",
            Stage::Added => "added",
            Stage::Overlap => "overlap",
            Stage::Draining => "draining",
            Stage::Done => "done",
            Stage::Failed => "failed",
            Stage::Undone => "undone",
        }
    }

    /// Whether it has ended.
    pub fn ended(self) -> bool {
        matches!(self, Stage::Done | Stage::Failed | Stage::Undone)
    }
}

/// One key's rotation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rotation {
    /// Its id.
    pub id: String,
    /// The provider.
    pub provider: String,
    /// Name of the secret.
    pub secret: String,
    /// The version that serves until the canary call has succeeded.
    pub old_version: i64,
    /// The version that follows it.
    pub new_version: i64,
    /// Where it stands.
    pub state: Stage,
    /// Why it failed or was undone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How long both versions serve.
    pub overlap: Duration,
    /// When it began.
    pub started_at: Timestamp,
    /// When it came where it stands.
    pub changed_at: Timestamp,
    /// When the last call on the old version was seen to have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drained_at: Option<Timestamp>,
    /// What was seen at each step.
    pub steps: Vec<Value>,
}

impl Rotation {
    /// How it stands, for people.
    pub fn text(&self) -> String {
        let (secret, old, new) = (&self.secret, self.old_version, self.new_version);
        match self.state {
            Stage::Adding | Stage::Added => {
                format!("{secret}: version {new} is being verified; version {old} serves")
            }
            Stage::Overlap => {
                let until = later(self.changed_at, self.overlap);
                format!(
                    "{secret}: version {new} serves, version {old} stands by until {until}; the daemon goes on"
                )
            }
            Stage::Draining => format!("{secret}: version {new} serves, calls on version {old} end"),
            Stage::Done => {
                let rest = match self.steps.iter().rev().find_map(|step| step["at_provider"].as_str()) {
                    Some("refused") => "the provider refuses it already",
                    Some("removed") => "it is no longer in the vault",
                    Some("accepted") => "the provider still takes it: delete it there",
                    _ => "delete it at the provider",
                };
                format!("{secret}: version {new} serves, version {old} is out of service; {rest}")
            }
            Stage::Failed | Stage::Undone => {
                format!("{secret}: {}; version {old} serves as before", self.reason)
            }
        }
    }

    /// What must be heard of it when it has ended: a failure, or a key that only its provider can end.
    pub fn finding(&self, evidence: Vec<String>) -> Option<Finding> {
        let accepted = self.steps.iter().any(|step| step["at_provider"] == json!("accepted"));
        let (code, severity, recommendation, escalate) = match self.state {
            Stage::Failed => (
                "key_rotation_failed",
                Severity::Critical,
                format!(
                    "get another key from the provider, and ask again: `steward ai keys rotate {}`",
                    self.provider
                ),
                Some(Trigger::AiApiFailure),
            ),
            Stage::Done if accepted => (
                "old_key_still_valid",
                Severity::Info,
                "delete the old key in the provider's console; Steward has no right to".to_owned(),
                None,
            ),
            _ => return None,
        };
        Some(Finding {
            code: code.into(),
            severity,
            title: self.text(),
            object: format!("{}@{}", self.secret, self.new_version),
            recommendation: Some(recommendation),
            evidence,
            escalate,
        })
    }
}

/// What comes next in a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next step can be taken at once.
    Go,
    /// Nothing to do before this time, or before a daemon has drained the old version.
    Wait(Timestamp),
    /// It has ended.
    Ended,
}

/// Which versions of a project's secrets serve.
#[derive(Debug, Clone, Default)]
pub struct Serving {
    /// By secret: versions that must not serve, and one that stands by.
    secrets: BTreeMap<String, (Vec<i64>, Option<i64>)>,
}

impl Serving {
    /// The version that serves and the one that stands by, of the versions that there are.
    pub fn of(&self, secret: &str, versions: &[i64]) -> (Option<i64>, Option<i64>) {
        let (barred, standby) = self.secrets.get(secret).cloned().unwrap_or_default();
        let current = versions.iter().copied().filter(|version| !barred.contains(version)).max();
        (current, standby.filter(|version| versions.contains(version) && current != Some(*version)))
    }
}

/// Rotations of a state's provider keys. Cheap to clone.
#[derive(Clone)]
pub struct Rotations {
    ledger: Ledger,
    vault: Vault,
}

impl Rotations {
    /// The rotations recorded in this ledger, of secrets in this vault.
    pub fn new(ledger: Ledger, vault: Vault) -> Self {
        Self { ledger, vault }
    }

    /// The plan that rotates keys of a provider; `keys` are the secrets that the project file names for it.
    ///
    /// # Errors
    ///
    /// `Invalid`: which key is meant is not clear, or too long an overlap. `NotFound`: no such key, or nothing was staged.
    /// `Conflict`: a rotation of the key is under way.
    pub async fn plan(&self, ctx: &Context, request: &RotateKeys, keys: &[String]) -> Result<Plan, Error> {
        let chosen = self.choose(ctx, request, keys).await?;
        let overlap = overlap(request)?;
        let mut steps = Vec::new();
        let mut pre_state = Vec::new();
        for secret in &chosen {
            if let Some(open) = self.open(ctx).await?.into_iter().find(|open| open.secret == *secret) {
                return Err(Error::new(ErrorKind::Conflict, "a rotation of this key is under way")
                    .with("key", secret)
                    .with("state", open.state.as_str())
                    .with_retry(contract::Retry::Later)
                    .hint("`steward ai keys list` shows it; it ends by itself"));
            }
            let versions = self.vault.versions(ctx, secret).await?;
            let Some(newest) = versions.last() else {
                return Err(Error::new(ErrorKind::NotFound, "the key's secret is not in the vault")
                    .with("key", secret)
                    .hint(format!("a first key needs no rotation: `steward secret put {secret}`")));
            };
            let (current, _) = self.serving(ctx).await?.of(secret, &versions);
            let Some(current) = current else {
                return Err(
                    Error::new(ErrorKind::NotFound, "no version of the key serves").with("key", secret)
                );
            };
            pre_state.push(format!("{secret} version {current} of {newest}"));
            let from =
                if request.staged { format!("from `{secret}{NEXT_SUFFIX}`") } else { "as given".to_owned() };
            for (id, title) in [
                ("add", format!("add version {} of `{secret}`, {from}; it serves nobody yet", newest + 1)),
                ("canary", format!("call `{}` with it", request.provider)),
                (
                    "overlap",
                    format!("let it serve, with version {current} standing by for {} s", overlap.as_secs()),
                ),
                ("drain", format!("call again, then let calls on version {current} end")),
                (
                    "revoke",
                    format!(
                        "take version {current} out of service, and try whether the provider still takes it"
                    ),
                ),
            ] {
                steps.push(PlanStep {
                    id: format!("{secret}:{id}"),
                    title,
                    mode: StepMode::Autocommit,
                    statements: Vec::new(),
                    is_done: None,
                    clean_up: Vec::new(),
                    undo: Vec::new(),
                    destructive: false,
                    reversible: true,
                    lock: None,
                });
            }
        }
        let what = match chosen.as_slice() {
            [one] => format!("rotate the key `{one}` of `{}`", request.provider),
            several => {
                format!("rotate {} keys of `{}`, one after the other", several.len(), request.provider)
            }
        };
        Ok(Plan {
            request: RotateKeys::NAME.into(),
            arguments: serde_json::to_value(request).expect("arguments are JSON"),
            project: ctx.project().into(),
            target: format!("ai:provider/{}", request.provider),
            summary: what,
            pre_state: pre_state.join("; "),
            predicted: json!({ "keys": chosen, "overlap_s": overlap.as_secs() }),
            steps,
            cost_usd_nanos: 0,
        })
    }

    /// The keys that are meant.
    async fn choose(
        &self,
        ctx: &Context,
        request: &RotateKeys,
        keys: &[String],
    ) -> Result<Vec<String>, Error> {
        if let Some(key) = &request.key
            && !keys.contains(key)
        {
            return Err(Error::new(ErrorKind::NotFound, format!("`{key}` is no key of this provider"))
                .with("provider", &request.provider)
                .hint(format!("its keys are: {}", keys.join(", "))));
        }
        let meant: Vec<String> = match &request.key {
            Some(key) => vec![key.clone()],
            None => keys.to_vec(),
        };
        if !request.staged {
            return match meant.as_slice() {
                [_] => Ok(meant),
                [] => Err(Error::new(ErrorKind::Invalid, "the provider has no keys")
                    .with("provider", &request.provider)
                    .hint(format!("name secrets under `ai.providers.{}.keys`", request.provider))),
                _ => Err(Error::new(ErrorKind::Invalid, "the provider has several keys")
                    .with("provider", &request.provider)
                    .hint(format!(
                        "name one with `--key`, or stage new values (`steward secret put {}{NEXT_SUFFIX}`) and give `--staged`",
                        meant[0]
                    ))),
            };
        }
        let mut staged = Vec::new();
        for key in &meant {
            if !self.vault.versions(ctx, &format!("{key}{NEXT_SUFFIX}")).await?.is_empty() {
                staged.push(key.clone());
            }
        }
        if staged.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "no new key is staged")
                .with("provider", &request.provider)
                .hint(format!(
                    "get one from the provider, and put it with `steward secret put {}{NEXT_SUFFIX}`",
                    meant.first().map_or("NAME", String::as_str)
                )));
        }
        Ok(staged)
    }

    /// Carries out a plan of [`Rotations::plan`]. One key after the other; a key that fails leaves the others alone.
    ///
    /// `serves` says whether a daemon serves calls at the moment: without one there is nothing to overlap or drain.
    /// A rotation with a long overlap is left to the daemon.
    ///
    /// # Errors
    ///
    /// `Forbidden`: the permit is not for this plan. `Invalid`: no value was given. A refused key is no error but a
    /// finding that escalates: the old one serves as before.
    pub async fn rotate(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        canary: &dyn Canary,
        given: Option<SecretString>,
        serves: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Outcome, Error> {
        permit.covers(ctx, plan)?;
        let request: RotateKeys = serde_json::from_value(plan.arguments.clone()).map_err(|error| {
            Error::new(ErrorKind::Invalid, "the plan's arguments are not those of its request").because(error)
        })?;
        let keys: Vec<String> = plan.predicted["keys"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let mut rotations = Vec::new();
        for secret in &keys {
            let staged = format!("{secret}{NEXT_SUFFIX}");
            let value = if request.staged {
                self.vault.get(ctx, &staged).await?
            } else {
                given.clone().ok_or_else(|| {
                    Error::new(ErrorKind::Invalid, "the new key is missing")
                        .hint("pipe it in or type it at the prompt; it is never an argument")
                })?
            };
            let rotation = self.begin(ctx, &request.provider, secret, overlap(&request)?).await?;
            let version =
                self.vault.add_for(ctx, permit, plan, secret, rotation.new_version - 1, &value).await;
            if let Err(error) = version {
                self.end(ctx, &rotation, Stage::Undone, error.message()).await?;
                return Err(error);
            }
            let ended = self.drive(ctx, rotation, canary, serves).await?;
            if request.staged && matches!(ended.state, Stage::Done | Stage::Draining | Stage::Overlap) {
                self.vault.remove_for(ctx, permit, plan, &staged).await?;
            }
            rotations.push(ended);
        }
        Ok(answer(ctx, &request.provider, &rotations))
    }

    /// Goes on with what a process left that ended in the middle: the rotations of this plan's keys.
    ///
    /// # Errors
    ///
    /// As the ledger's and the vault's.
    pub async fn resume(
        &self,
        ctx: &Context,
        plan: &Plan,
        canary: &dyn Canary,
        serves: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Vec<Rotation>, Error> {
        let keys: Vec<&str> =
            plan.predicted["keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut ended = Vec::new();
        for rotation in self.open(ctx).await? {
            if keys.contains(&rotation.secret.as_str()) {
                // Without waiting: a daemon that starts has to serve, and goes on with it then.
                ended.push(self.step_on(ctx, rotation, canary, serves()).await?);
            }
        }
        Ok(ended)
    }

    /// Goes on with rotations whose time has come and that nobody else works on. Returns those that ended.
    ///
    /// # Errors
    ///
    /// As the ledger's and the vault's.
    pub async fn advance_due(&self, ctx: &Context, canary: &dyn Canary) -> Result<Vec<Rotation>, Error> {
        let mut ended = Vec::new();
        for rotation in self.open(ctx).await? {
            let worked_on = matches!(rotation.state, Stage::Adding | Stage::Added)
                && ctx.now() < later(rotation.changed_at, ABANDONED);
            if worked_on {
                continue;
            }
            let rotation = self.step_on(ctx, rotation, canary, true).await?;
            if rotation.state.ended() {
                ended.push(rotation);
            }
        }
        Ok(ended)
    }

    /// Takes the steps that can be taken now.
    async fn step_on(
        &self,
        ctx: &Context,
        mut rotation: Rotation,
        canary: &dyn Canary,
        serves: bool,
    ) -> Result<Rotation, Error> {
        loop {
            match self.advance(ctx, &mut rotation, canary, serves).await {
                Ok(Next::Go) => {}
                Ok(Next::Wait(_) | Next::Ended) => return Ok(rotation),
                // Another process took the step; it is its to go on.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    return self.by_id(ctx, &rotation.id).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes steps until it ends, or has to wait longer than whoever asked should.
    async fn drive(
        &self,
        ctx: &Context,
        mut rotation: Rotation,
        canary: &dyn Canary,
        serves: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Rotation, Error> {
        loop {
            match self.advance(ctx, &mut rotation, canary, serves()).await {
                Ok(Next::Go) => {}
                Ok(Next::Ended) => return Ok(rotation),
                // The daemon took the step.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    rotation = self.by_id(ctx, &rotation.id).await?;
                }
                Err(error) => return Err(error),
                Ok(Next::Wait(until)) => {
                    // Calls on the old version mostly end soon; only the bound on waiting for them is far away.
                    let over = match rotation.state {
                        Stage::Draining => ctx.now() > later(rotation.changed_at, WAITED_FOR_MAX),
                        _ => until.duration_since(ctx.now()) > signed(WAITED_FOR_MAX),
                    };
                    if over {
                        return Ok(rotation);
                    }
                    ctx.run(async {
                        tokio::time::sleep(LOOK).await;
                        Ok(())
                    })
                    .await?;
                    rotation = self.by_id(ctx, &rotation.id).await?;
                }
            }
        }
    }

    /// Takes the next step of a rotation, if it is time. `serves`: whether a daemon serves calls.
    ///
    /// # Errors
    ///
    /// As the ledger's and the vault's. `Conflict`: another process took the step; read it again.
    pub async fn advance(
        &self,
        ctx: &Context,
        rotation: &mut Rotation,
        canary: &dyn Canary,
        serves: bool,
    ) -> Result<Next, Error> {
        let now = ctx.now();
        match rotation.state {
            Stage::Adding => {
                if self.vault.versions(ctx, &rotation.secret).await?.contains(&rotation.new_version) {
                    let step = json!({ "step": "add", "version": rotation.new_version });
                    self.step(ctx, rotation, Stage::Added, step).await?;
                    Ok(Next::Go)
                } else {
                    self.finish(ctx, rotation, Stage::Undone, "it ended before the new key was stored")
                        .await?;
                    Ok(Next::Ended)
                }
            }
            Stage::Added => match self.try_new(ctx, rotation, canary).await? {
                Ok(seen) => {
                    self.step(ctx, rotation, Stage::Overlap, seen).await?;
                    Ok(Next::Go)
                }
                Err(reason) => {
                    self.finish(ctx, rotation, Stage::Failed, &reason).await?;
                    Ok(Next::Ended)
                }
            },
            Stage::Overlap => {
                let until = later(rotation.changed_at, rotation.overlap);
                if serves && now < until {
                    return Ok(Next::Wait(until));
                }
                // Serving is the better test: it may have been refused meanwhile, such as by a limit of the new key.
                match self.try_new(ctx, rotation, canary).await? {
                    Ok(mut seen) => {
                        seen["step"] = json!("overlap");
                        seen["overlap_s"] = json!(now.duration_since(rotation.changed_at).as_secs());
                        self.step(ctx, rotation, Stage::Draining, seen).await?;
                        Ok(Next::Go)
                    }
                    Err(reason) => {
                        self.finish(ctx, rotation, Stage::Failed, &reason).await?;
                        Ok(Next::Ended)
                    }
                }
            }
            Stage::Draining => {
                let until = later(rotation.changed_at, DRAIN_MAX);
                if serves && rotation.drained_at.is_none() && now < until {
                    return Ok(Next::Wait(until));
                }
                let drain = match (serves, rotation.drained_at) {
                    (_, Some(at)) => json!({ "step": "drain", "drained_at": at }),
                    (false, None) => json!({ "step": "drain", "no_daemon": true }),
                    (true, None) => json!({ "step": "drain", "gave_up_after_s": DRAIN_MAX.as_secs() }),
                };
                let drain = at(drain, now);
                let revoke = at(self.try_old(ctx, rotation, canary).await, ctx.now());
                rotation.steps.extend([drain, revoke]);
                self.finish(ctx, rotation, Stage::Done, "").await?;
                Ok(Next::Ended)
            }
            Stage::Done | Stage::Failed | Stage::Undone => Ok(Next::Ended),
        }
    }

    /// Calls the provider with the new version: what was seen, or why it cannot serve.
    async fn try_new(
        &self,
        ctx: &Context,
        rotation: &Rotation,
        canary: &dyn Canary,
    ) -> Result<Result<Value, String>, Error> {
        let value = match self.vault.version(ctx, &rotation.secret, rotation.new_version).await {
            Ok(value) => value,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Err("the new version was removed".into()));
            }
            Err(error) => return Err(error),
        };
        let mut attempt = 1;
        loop {
            match ctx.run(async { Ok(canary.call(ctx, &rotation.provider, &value).await) }).await? {
                Ok(answer) => {
                    return Ok(Ok(json!({
                        "step": "canary", "called": answer.what, "status": answer.status, "attempt": attempt,
                        "elapsed_ms": u64::try_from(answer.elapsed.as_millis()).unwrap_or(u64::MAX),
                    })));
                }
                Err(failure) if refuses(&failure) => {
                    return Ok(Err(format!("the provider refuses the new key: {}", failure.message)));
                }
                Err(failure) if attempt == CANARY_TRIES => {
                    return Ok(Err(format!("the new key could not be verified: {}", failure.message)));
                }
                Err(failure) => {
                    let wait =
                        failure.retry_after.unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(10));
                    ctx.run(async {
                        tokio::time::sleep(wait).await;
                        Ok(())
                    })
                    .await?;
                    attempt += 1;
                }
            }
        }
    }

    /// Whether the provider still takes the old version, for the record: only it can make the key worthless.
    async fn try_old(&self, ctx: &Context, rotation: &Rotation, canary: &dyn Canary) -> Value {
        let answered = match self.vault.version(ctx, &rotation.secret, rotation.old_version).await {
            Ok(value) => canary.call(ctx, &rotation.provider, &value).await,
            Err(_) => {
                return json!({ "step": "revoke", "version": rotation.old_version, "at_provider": "removed" });
            }
        };
        let at_provider = match &answered {
            Ok(_) => "accepted",
            Err(failure) if refuses(failure) => "refused",
            Err(_) => "unknown",
        };
        json!({ "step": "revoke", "version": rotation.old_version, "at_provider": at_provider })
    }

    /// Begins the rotation of one key; from now on its newest version is the one that serves until the canary is through.
    ///
    /// # Errors
    ///
    /// `Conflict`: one is under way. `NotFound`: no version serves.
    pub async fn begin(
        &self,
        ctx: &Context,
        provider: &str,
        secret: &str,
        overlap: Duration,
    ) -> Result<Rotation, Error> {
        let versions = self.vault.versions(ctx, secret).await?;
        let (current, _) = self.serving(ctx).await?.of(secret, &versions);
        let (Some(current), Some(newest)) = (current, versions.last()) else {
            return Err(Error::new(ErrorKind::NotFound, "no version of the key serves").with("key", secret));
        };
        let now = ctx.now();
        let rotation = Rotation {
            id: format!("rotation-{}", uuid::Uuid::now_v7().simple()),
            provider: provider.to_owned(),
            secret: secret.to_owned(),
            old_version: current,
            new_version: newest + 1,
            state: Stage::Adding,
            reason: String::new(),
            overlap,
            started_at: now,
            changed_at: now,
            drained_at: None,
            steps: Vec::new(),
        };
        let write = Write::new()
            .exec_expecting(
                "INSERT INTO ai_rotations (id, project, provider, secret, old_version, new_version, state, reason, overlap_us, \
                 started_us, changed_us, steps) SELECT ?, ?, ?, ?, ?, ?, 'adding', '', ?, ?, ?, '[]' WHERE NOT EXISTS \
                 (SELECT 1 FROM ai_rotations WHERE project = ? AND secret = ? AND state IN ('adding', 'added', 'overlap', 'draining'))",
                vec![
                    rotation.id.as_str().into(),
                    ctx.project().into(),
                    provider.into(),
                    secret.into(),
                    rotation.old_version.into(),
                    rotation.new_version.into(),
                    i64::try_from(overlap.as_micros()).unwrap_or(i64::MAX).into(),
                    now.into(),
                    now.into(),
                    ctx.project().into(),
                    secret.into(),
                ],
                1,
            )
            .event(event(&rotation, "begun"))
            .bump(GENERATION);
        self.ledger.write(ctx, write).await.map_err(|error| match error.kind() {
            ErrorKind::Conflict => {
                Error::new(ErrorKind::Conflict, "a rotation of this key is under way").with("key", secret)
            }
            _ => error,
        })?;
        Ok(rotation)
    }

    /// From one stage to the next, with what was seen.
    async fn step(
        &self,
        ctx: &Context,
        rotation: &mut Rotation,
        to: Stage,
        seen: Value,
    ) -> Result<(), Error> {
        rotation.steps.push(at(seen, ctx.now()));
        self.go(ctx, rotation, to).await
    }

    async fn finish(
        &self,
        ctx: &Context,
        rotation: &mut Rotation,
        to: Stage,
        reason: &str,
    ) -> Result<(), Error> {
        reason.clone_into(&mut rotation.reason);
        self.go(ctx, rotation, to).await
    }

    async fn end(&self, ctx: &Context, rotation: &Rotation, to: Stage, reason: &str) -> Result<(), Error> {
        self.finish(ctx, &mut rotation.clone(), to, reason).await
    }

    async fn go(&self, ctx: &Context, rotation: &mut Rotation, to: Stage) -> Result<(), Error> {
        let from = rotation.state;
        rotation.state = to;
        rotation.changed_at = ctx.now();
        let write = Write::new()
            .exec_expecting(
                "UPDATE ai_rotations SET state = ?, reason = ?, changed_us = ?, steps = ? WHERE id = ? AND state = ?",
                vec![
                    to.as_str().into(),
                    rotation.reason.as_str().into(),
                    rotation.changed_at.into(),
                    Value::Array(rotation.steps.clone()).to_string().into(),
                    rotation.id.as_str().into(),
                    from.as_str().into(),
                ],
                1,
            )
            .event(event(rotation, to.as_str()))
            .bump(GENERATION);
        self.ledger.write(ctx, write).await?;
        tracing::info!(
            provider = rotation.provider,
            secret = rotation.secret,
            state = to.as_str(),
            "key rotation"
        );
        Ok(())
    }

    /// A daemon saw that no call is under way on the old version any more.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub async fn drained(&self, ctx: &Context, rotation: &Rotation) -> Result<(), Error> {
        let write = Write::new().exec(
            "UPDATE ai_rotations SET drained_us = ? WHERE id = ? AND state = 'draining' AND drained_us IS NULL",
            vec![ctx.now().into(), rotation.id.as_str().into()],
        );
        self.ledger.write(ctx, write).await.map(|_| ())
    }

    /// Rotations of the project that have not ended.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub async fn open(&self, ctx: &Context) -> Result<Vec<Rotation>, Error> {
        Ok(self.all(ctx).await?.into_iter().filter(|rotation| !rotation.state.ended()).collect())
    }

    /// All rotations of the project, the oldest first.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub async fn all(&self, ctx: &Context) -> Result<Vec<Rotation>, Error> {
        let rows = self
            .ledger
            .query(
                "SELECT id, provider, secret, old_version, new_version, state, reason, overlap_us, started_us, changed_us, \
                 drained_us, steps FROM ai_rotations WHERE project = ? ORDER BY started_us, id",
                vec![ctx.project().into()],
            )
            .await?;
        rows.iter().map(rotation).collect()
    }

    async fn by_id(&self, ctx: &Context, id: &str) -> Result<Rotation, Error> {
        let found = self.all(ctx).await?.into_iter().find(|rotation| rotation.id == id);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "the rotation is gone").with("rotation", id))
    }

    /// Which versions of the project's keys serve. Without a rotation it is the newest.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub async fn serving(&self, ctx: &Context) -> Result<Serving, Error> {
        let mut secrets: BTreeMap<String, (Vec<i64>, Option<i64>)> = BTreeMap::new();
        for rotation in self.all(ctx).await? {
            let (barred, standby) = secrets.entry(rotation.secret.clone()).or_default();
            match rotation.state {
                // An undone one stored nothing; its number may be taken by another value since.
                Stage::Undone | Stage::Done | Stage::Draining => {}
                Stage::Adding | Stage::Added | Stage::Failed => barred.push(rotation.new_version),
                Stage::Overlap => *standby = Some(rotation.old_version),
            }
        }
        Ok(Serving { secrets })
    }
}

/// Whether the provider said no to the key itself.
fn refuses(failure: &Failure) -> bool {
    failure.key_fault || matches!(failure.class, FailureClass::Key | FailureClass::Quota)
}

/// What came of rotations, as an answer.
fn answer(ctx: &Context, provider: &str, rotations: &[Rotation]) -> Outcome {
    let mut lines = Vec::new();
    let mut findings = Vec::new();
    let mut evidence = Vec::new();
    for rotation in rotations {
        let elapsed = rotation.changed_at.duration_since(rotation.started_at).as_secs_f64() * 1e3;
        let proof = Evidence::new(
            &format!("ai:provider/{provider}"),
            &format!(
                "rotate {} from version {} to {}",
                rotation.secret, rotation.old_version, rotation.new_version
            ),
            json!({ "state": rotation.state, "reason": rotation.reason, "steps": rotation.steps }),
            ctx.now(),
            elapsed,
        );
        lines.push(rotation.text());
        findings.extend(rotation.finding(vec![proof.id.clone()]));
        evidence.push(proof);
    }
    let mut outcome = Outcome::new(json!({ "provider": provider, "rotations": rotations }), lines.join("\n"));
    outcome.findings = findings;
    outcome.evidence = evidence;
    outcome
}

fn event(rotation: &Rotation, what: &str) -> NewEvent {
    NewEvent::new(
        format!("ai.rotation.{what}"),
        format!("ai:provider/{}", rotation.provider),
        json!({
            "rotation": rotation.id, "secret": rotation.secret, "old_version": rotation.old_version,
            "new_version": rotation.new_version, "reason": rotation.reason, "steps": rotation.steps,
        }),
    )
}

fn at(mut step: Value, now: Timestamp) -> Value {
    step["at"] = json!(now);
    step
}

fn overlap(request: &RotateKeys) -> Result<Duration, Error> {
    let overlap =
        request.overlap_s.map_or(OVERLAP_DEFAULT, |seconds| Duration::from_secs(u64::from(seconds)));
    if overlap > OVERLAP_MAX {
        return Err(Error::new(ErrorKind::Invalid, "both versions would serve too long")
            .with("argument", "overlap_s")
            .hint(format!("at most {} seconds, which is a week", OVERLAP_MAX.as_secs())));
    }
    Ok(overlap)
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.saturating_add(signed(by)).unwrap_or(Timestamp::MAX)
}

fn rotation(row: &Row) -> Result<Rotation, Error> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "a rotation's row does not hold what it should");
    let state = row.get_text("state")?;
    Ok(Rotation {
        id: row.get_text("id")?.to_owned(),
        provider: row.get_text("provider")?.to_owned(),
        secret: row.get_text("secret")?.to_owned(),
        old_version: row.get_i64("old_version")?,
        new_version: row.get_i64("new_version")?,
        state: Stage::ALL.into_iter().find(|stage| stage.as_str() == state).ok_or_else(corrupt)?,
        reason: row.get_text("reason")?.to_owned(),
        overlap: Duration::from_micros(u64::try_from(row.get_i64("overlap_us")?).map_err(|_| corrupt())?),
        started_at: row.get_time("started_us")?,
        changed_at: row.get_time("changed_us")?,
        drained_at: row.get_opt_time("drained_us")?,
        steps: row.get_json("steps")?,
    })
}
