//! Virtual keys: what clients of the gateway hold instead of a provider's key. Only their keyed hashes are stored.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::{
    Actor, ActorKind, Context, Effect, Error, ErrorKind, Outcome, Permit, Plan, PlanStep, Request, Role,
    StepMode,
};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use ledger::{Ledger, NewEvent, Row, Write};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fingerprint::{Fingerprint, Fingerprints};

/// What every virtual key begins with, so that scanners for leaked secrets can find it.
pub const KEY_PREFIX: &str = "sk-steward-";

/// The generation that every change to virtual keys and rotations bumps; a daemon polls it.
pub const GENERATION: &str = "ai";

/// Random bytes of a key.
const KEY_BYTES: usize = 32;

/// Longest name of a key or person.
const NAME_LENGTH_MAX: usize = 63;

/// Longest time for which an old value may stay valid beside its successor: 30 days.
const OVERLAP_MINUTES_MAX: u32 = 30 * 24 * 60;

/// Makes a key for a client of the gateway; its value is shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// Name of the client, such as `checkout`.
    pub name: String,
    /// Routes that it may call, separated by commas; `*` for all. Default: all, if no model is named either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    /// Models that it may call by themselves: `provider/model`, `provider/*` or `*`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// `requester`, or `reader`, which may list models and no more. Default: requester.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The person whose key it is, for budgets and usage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// Most requests in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpm: Option<u32>,
    /// Most tokens in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<u32>,
    /// Most requests at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    /// When it ends: a day such as `2026-12-31`, which is its last, a time, or `90d`. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

impl Request for CreateKey {
    const NAME: &'static str = "keys.create";
    const SUMMARY: &'static str = "Make a virtual key for a client of the gateway; its value is shown once";
    const EXAMPLE: &'static str =
        "steward ai keys create checkout --routes fast,smart --rpm 60 --expires 2026-12-31";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "key.write";
    const POSITIONAL: &'static [&'static str] = &["name"];
}

/// Lists virtual keys without their values, and the states of the providers' keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListKeys {
    /// Also keys that are revoked or expired.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

impl Request for ListKeys {
    const NAME: &'static str = "keys.list";
    const SUMMARY: &'static str = "List virtual keys, and the states of the providers' keys, without values";
    const EXAMPLE: &'static str = "steward ai keys list";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "key.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Withdraws a virtual key; a running daemon refuses it within a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeKey {
    /// Name of the key.
    pub name: String,
}

impl Request for RevokeKey {
    const NAME: &'static str = "keys.revoke";
    const SUMMARY: &'static str = "Withdraw a virtual key";
    const EXAMPLE: &'static str = "steward ai keys revoke checkout";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "key.remove";
    const POSITIONAL: &'static [&'static str] = &["name"];
}

/// Gives a virtual key a new value; scopes, limits and budgets stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegenerateKey {
    /// Name of the key.
    pub name: String,
    /// Minutes for which the old value stays valid. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_minutes: Option<u32>,
}

impl Request for RegenerateKey {
    const NAME: &'static str = "keys.regenerate";
    const SUMMARY: &'static str = "Give a virtual key a new value, which is shown once";
    const EXAMPLE: &'static str = "steward ai keys regenerate checkout --overlap-minutes 60";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "key.rotate";
    const POSITIONAL: &'static [&'static str] = &["name"];
}

/// A virtual key without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VirtualKey {
    /// Its id, which stays when the value changes.
    pub id: String,
    /// Name of the client.
    pub name: String,
    /// The project to which its calls and their cost belong.
    pub project: String,
    /// Routes that it may call; `*` for all.
    pub routes: Vec<String>,
    /// Models that it may call by themselves.
    pub models: Vec<String>,
    /// What it may do.
    pub role: Role,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// Most requests in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpm: Option<u32>,
    /// Most tokens in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<u32>,
    /// Most requests at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its value was last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regenerated_at: Option<Timestamp>,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was withdrawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

impl VirtualKey {
    /// Whether it opens the gateway at this time.
    pub fn valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expires| expires > now)
    }

    /// Whether its own scope names this route. What the authority matrix says comes on top.
    pub fn names_route(&self, route: &str) -> bool {
        self.routes.iter().any(|known| known == "*" || known == route)
    }

    /// Whether its own scope names this model of this provider.
    pub fn names_model(&self, provider: &str, model: &str) -> bool {
        self.models.iter().any(|pattern| match pattern.split_once('/') {
            None => pattern == "*",
            Some((of, which)) => of == provider && (which == "*" || which == model),
        })
    }

    /// Whether its own scope names any model of this provider.
    pub fn names_provider(&self, provider: &str) -> bool {
        self.models
            .iter()
            .any(|pattern| pattern.split_once('/').map_or(pattern == "*", |(of, _)| of == provider))
    }

    /// Who asks when this key is used: an agent with the key's name and role.
    pub fn actor(&self) -> Actor {
        Actor::new(ActorKind::Agent, &self.name, [self.role])
    }

    fn state(&self, now: Timestamp) -> &'static str {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => "revoked",
            (None, Some(expires)) if expires <= now => "expired",
            _ => "valid",
        }
    }
}

/// A virtual key as the table of a daemon needs it: by which hashes it is found, and until when by each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// The key.
    pub key: VirtualKey,
    /// Hashes of its values; the time is when an old value ends.
    pub hashes: Vec<(Fingerprint, Option<Timestamp>)>,
}

/// What a key's scope may name: the routes and providers of the project file.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// Routes.
    pub routes: &'a [String],
    /// Providers.
    pub providers: &'a [String],
}

/// The virtual keys of all projects. Cheap to clone.
#[derive(Clone)]
pub struct VirtualKeys {
    ledger: Ledger,
    fingerprints: Fingerprints,
}

impl VirtualKeys {
    /// The keys recorded in this ledger, hashed so.
    pub fn new(ledger: Ledger, fingerprints: Fingerprints) -> Self {
        Self { ledger, fingerprints }
    }

    /// How they are hashed.
    pub fn fingerprints(&self) -> &Fingerprints {
        &self.fingerprints
    }

    /// The plan that makes a key.
    ///
    /// # Errors
    ///
    /// `Invalid`: the name, a route or provider that is not in the project file, a role that approves, a time that is
    /// over. `AlreadyExists`: a valid key has this name.
    pub async fn plan_create(
        &self,
        ctx: &Context,
        request: &CreateKey,
        names: Names<'_>,
    ) -> Result<Plan, Error> {
        let scope = Scope::of(ctx, request, names)?;
        if self.find(ctx, &request.name).await?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "there is a key of this name already")
                .with("name", &request.name)
                .hint(format!(
                    "give it a new value with `steward ai keys regenerate {}`, or choose another name",
                    request.name
                )));
        }
        let mut plan = plan(ctx, request, &request.name, format!("make the virtual key `{}`", request.name));
        plan.pre_state = "absent".into();
        plan.predicted = scope.json();
        Ok(plan)
    }

    /// Makes a key. Its value is nowhere but in the second part of the answer.
    ///
    /// # Errors
    ///
    /// As [`VirtualKeys::plan_create`]; `Forbidden`: the permit is not for this plan.
    pub async fn create(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        request: &CreateKey,
        names: Names<'_>,
    ) -> Result<(Outcome, SecretString), Error> {
        permit.covers(ctx, plan)?;
        let scope = Scope::of(ctx, request, names)?;
        let (value, hash) = self.fresh();
        let id = format!("key-{}", uuid::Uuid::now_v7().simple());
        let now = ctx.now();
        let mut body = scope.json();
        body["id"] = json!(id);
        body["name"] = json!(request.name);
        let write = Write::new()
            .exec_expecting(
                "INSERT INTO ai_keys (id, project, name, key_hash, routes, models, role, person, rpm, tpm, concurrent, \
                 created_us, expires_us) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM ai_keys \
                 WHERE project = ? AND name = ? AND revoked_us IS NULL AND (expires_us IS NULL OR expires_us > ?))",
                vec![
                    id.as_str().into(),
                    ctx.project().into(),
                    request.name.as_str().into(),
                    hash.0.to_vec().into(),
                    list(&scope.routes).into(),
                    list(&scope.models).into(),
                    scope.role.as_str().into(),
                    scope.person.clone().into(),
                    scope.rpm.map(i64::from).into(),
                    scope.tpm.map(i64::from).into(),
                    scope.concurrent.map(i64::from).into(),
                    now.into(),
                    scope.expires.into(),
                    ctx.project().into(),
                    request.name.as_str().into(),
                    now.into(),
                ],
                1,
            )
            .event(NewEvent::new("ai.key.created", plan.target.clone(), body.clone()))
            .bump(GENERATION);
        self.ledger.write(ctx, write).await.map_err(|error| changed(error, &request.name))?;
        let until = scope
            .expires
            .map_or_else(|| "until it is revoked".to_owned(), |expires| format!("until {expires}"));
        let text = format!(
            "made the virtual key {} for {}, valid {until}; its value is shown only now",
            request.name,
            reach(&scope.routes, &scope.models),
        );
        Ok((Outcome::new(body, text), value))
    }

    /// The plan that gives a key a new value.
    ///
    /// # Errors
    ///
    /// `NotFound`: no valid key has this name. `Invalid`: too long an overlap.
    pub async fn plan_regenerate(&self, ctx: &Context, request: &RegenerateKey) -> Result<Plan, Error> {
        let key = self.named(ctx, &request.name).await?;
        let minutes = request.overlap_minutes.unwrap_or(0);
        if minutes > OVERLAP_MINUTES_MAX {
            return Err(Error::new(ErrorKind::Invalid, "the old value would stay valid too long")
                .with("argument", "overlap_minutes")
                .hint(format!("at most {OVERLAP_MINUTES_MAX} minutes, which is 30 days")));
        }
        let what = if minutes == 0 {
            "the old one ends at once".to_owned()
        } else {
            format!("the old one ends {minutes} minutes later")
        };
        let summary = format!("give the virtual key `{}` a new value; {what}", request.name);
        let mut plan = plan(ctx, request, &request.name, summary);
        plan.pre_state = state_of(&key);
        Ok(plan)
    }

    /// Gives a key a new value, which is nowhere but in the second part of the answer.
    ///
    /// # Errors
    ///
    /// As [`VirtualKeys::plan_regenerate`]; `Conflict`: the key has changed since the plan was made.
    pub async fn regenerate(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        request: &RegenerateKey,
    ) -> Result<(Outcome, SecretString), Error> {
        permit.covers(ctx, plan)?;
        let key = self.unchanged(ctx, plan, &request.name).await?;
        let (value, hash) = self.fresh();
        let now = ctx.now();
        let minutes = request.overlap_minutes.unwrap_or(0);
        let until =
            now.saturating_add(SignedDuration::from_mins(i64::from(minutes))).unwrap_or(Timestamp::MAX);
        let body =
            json!({ "id": key.id, "name": key.name, "old_value_until": (minutes > 0).then_some(until) });
        let write = Write::new()
            .exec_expecting(
                "UPDATE ai_keys SET old_hash = key_hash, old_until_us = ?, key_hash = ?, regenerated_us = ? \
                 WHERE id = ? AND revoked_us IS NULL AND coalesce(regenerated_us, 0) = ?",
                vec![
                    until.into(),
                    hash.0.to_vec().into(),
                    now.into(),
                    key.id.as_str().into(),
                    key.regenerated_at.map_or(0, Timestamp::as_microsecond).into(),
                ],
                1,
            )
            .event(NewEvent::new("ai.key.regenerated", plan.target.clone(), body.clone()))
            .bump(GENERATION);
        self.ledger.write(ctx, write).await.map_err(|error| changed(error, &request.name))?;
        let old = if minutes == 0 {
            "the old one has ended".to_owned()
        } else {
            format!("the old one ends at {until}")
        };
        let text = format!("gave the virtual key {} a new value, which is shown only now; {old}", key.name);
        Ok((Outcome::new(body, text), value))
    }

    /// The plan that withdraws a key.
    ///
    /// # Errors
    ///
    /// `NotFound`: no valid key has this name.
    pub async fn plan_revoke(&self, ctx: &Context, request: &RevokeKey) -> Result<Plan, Error> {
        let key = self.named(ctx, &request.name).await?;
        let summary = format!("revoke the virtual key `{}`", request.name);
        let mut plan = plan(ctx, request, &request.name, summary);
        plan.pre_state = state_of(&key);
        Ok(plan)
    }

    /// Withdraws a key. A daemon that polls the generation refuses it within a second.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Conflict`: the key has changed since the plan was made.
    pub async fn revoke(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        request: &RevokeKey,
    ) -> Result<Outcome, Error> {
        permit.covers(ctx, plan)?;
        let key = self.unchanged(ctx, plan, &request.name).await?;
        let body = json!({ "id": key.id, "name": key.name });
        let write = Write::new()
            .exec_expecting(
                "UPDATE ai_keys SET revoked_us = ? WHERE id = ? AND revoked_us IS NULL",
                vec![ctx.now().into(), key.id.as_str().into()],
                1,
            )
            .event(NewEvent::new("ai.key.revoked", plan.target.clone(), body.clone()))
            .bump(GENERATION);
        self.ledger.write(ctx, write).await.map_err(|error| changed(error, &request.name))?;
        Ok(Outcome::new(body, format!("revoked the virtual key {}", key.name)))
    }

    /// All keys of the project, by name, the newest of each name first.
    ///
    /// # Errors
    ///
    /// What the ledger returns.
    pub async fn all(&self, ctx: &Context) -> Result<Vec<VirtualKey>, Error> {
        Ok(self.stored(ctx).await?.into_iter().map(|stored| stored.key).collect())
    }

    /// The same with the hashes by which they are found.
    ///
    /// # Errors
    ///
    /// What the ledger returns; `Corrupt`: a row does not hold what it should.
    pub async fn stored(&self, ctx: &Context) -> Result<Vec<StoredKey>, Error> {
        let rows = self
            .ledger
            .query(
                "SELECT id, project, name, key_hash, old_hash, old_until_us, routes, models, role, person, rpm, tpm, \
                 concurrent, created_us, regenerated_us, expires_us, revoked_us FROM ai_keys \
                 WHERE project = ? ORDER BY name, created_us DESC, id",
                vec![ctx.project().into()],
            )
            .await?;
        rows.iter().map(stored).collect()
    }

    /// The list, as an answer.
    ///
    /// # Errors
    ///
    /// What the ledger returns.
    pub async fn list(&self, ctx: &Context, request: &ListKeys) -> Result<Outcome, Error> {
        let now = ctx.now();
        let mut keys = self.all(ctx).await?;
        let hidden = keys.iter().filter(|key| !request.all && !key.valid(now)).count();
        keys.retain(|key| request.all || key.valid(now));
        let mut text = String::new();
        let width = keys.iter().map(|key| key.name.len()).max().unwrap_or(0).max(8);
        for key in &keys {
            let state = match (key.state(now), key.expires_at) {
                ("valid", Some(expires)) => format!("valid until {expires}"),
                (state, _) => state.to_owned(),
            };
            let mut notes = vec![reach(&key.routes, &key.models)];
            notes.extend(key.person.iter().map(|person| format!("of {person}")));
            notes.extend((key.role != Role::Requester).then(|| key.role.to_string()));
            notes.extend(key.rpm.map(|rpm| format!("{rpm} requests/min")));
            notes.extend(key.tpm.map(|tpm| format!("{tpm} tokens/min")));
            notes.extend(key.concurrent.map(|concurrent| format!("{concurrent} at once")));
            writeln!(text, "{:<width$}  {state:<10}  {}", key.name, notes.join(", "))
                .expect("writing to a string");
        }
        if keys.is_empty() {
            text.push_str("no virtual keys; `steward ai keys create NAME` makes one\n");
        }
        if hidden > 0 {
            writeln!(text, "{hidden} revoked or expired; `--all` shows them").expect("writing to a string");
        }
        Ok(Outcome::new(json!({ "keys": keys }), text.trim_end()))
    }

    /// The valid key of this name.
    async fn find(&self, ctx: &Context, name: &str) -> Result<Option<VirtualKey>, Error> {
        let now = ctx.now();
        Ok(self.all(ctx).await?.into_iter().find(|key| key.name == name && key.valid(now)))
    }

    async fn named(&self, ctx: &Context, name: &str) -> Result<VirtualKey, Error> {
        self.find(ctx, name).await?.ok_or_else(|| {
            let shown: String = name.chars().take(NAME_LENGTH_MAX).flat_map(char::escape_default).collect();
            let shown = if name.starts_with(KEY_PREFIX) { "a value, not a name".to_owned() } else { shown };
            Error::new(ErrorKind::NotFound, "there is no valid virtual key of this name")
                .with("name", shown)
                .hint("`steward ai keys list --all` shows them")
        })
    }

    async fn unchanged(&self, ctx: &Context, plan: &Plan, name: &str) -> Result<VirtualKey, Error> {
        let key = self.named(ctx, name).await?;
        if state_of(&key) == plan.pre_state { Ok(key) } else { Err(stale(name)) }
    }

    fn fresh(&self) -> (SecretString, Fingerprint) {
        let mut bytes = zeroize::Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *bytes).expect("the operating system gives random bytes");
        let value = SecretString::from(format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(*bytes)));
        let hash = self.fingerprints.of(value.expose_secret().as_bytes());
        (value, hash)
    }
}

/// A request to make a key, checked.
struct Scope {
    routes: Vec<String>,
    models: Vec<String>,
    role: Role,
    person: Option<String>,
    rpm: Option<u32>,
    tpm: Option<u32>,
    concurrent: Option<u32>,
    expires: Option<Timestamp>,
}

impl Scope {
    fn of(ctx: &Context, request: &CreateKey, names: Names<'_>) -> Result<Scope, Error> {
        check_name("name", &request.name)?;
        if let Some(person) = &request.person {
            check_name("person", person)?;
        }
        let role = request.role.unwrap_or(Role::Requester);
        if !matches!(role, Role::Reader | Role::Requester) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("a virtual key cannot hold the role `{role}`"),
            )
            .hint("virtual keys are for programs, which never approve: use `reader` or `requester`"));
        }
        let mut routes = split(&request.routes);
        let models = split(&request.models);
        if routes.is_empty() && models.is_empty() {
            routes.insert("*".into());
        }
        for route in routes.iter().filter(|route| *route != "*") {
            if !names.routes.contains(route) {
                return Err(unknown("route", route, names.routes));
            }
        }
        for model in &models {
            match model.split_once('/') {
                None if model == "*" => {}
                Some((provider, name)) if !name.is_empty() => {
                    if !names.providers.iter().any(|known| known == provider) {
                        return Err(unknown("provider", provider, names.providers));
                    }
                }
                _ => {
                    return Err(Error::new(ErrorKind::Invalid, "this names no model of a provider")
                        .with("model", model)
                        .hint("write `provider/model`, `provider/*` or `*`"));
                }
            }
        }
        for (argument, value) in
            [("rpm", request.rpm), ("tpm", request.tpm), ("concurrent", request.concurrent)]
        {
            if value == Some(0) {
                return Err(Error::new(ErrorKind::Invalid, format!("`{argument}` is 0"))
                    .with("argument", argument)
                    .hint("the key could never be used; leave it out for no limit of its own"));
            }
        }
        let expires = request.expires.as_deref().map(|text| expiry(ctx.now(), text)).transpose()?;
        Ok(Scope {
            routes: routes.into_iter().collect(),
            models: models.into_iter().collect(),
            role,
            person: request.person.clone(),
            rpm: request.rpm,
            tpm: request.tpm,
            concurrent: request.concurrent,
            expires,
        })
    }

    fn json(&self) -> Value {
        json!({
            "routes": self.routes, "models": self.models, "role": self.role, "person": self.person, "rpm": self.rpm,
            "tpm": self.tpm, "concurrent": self.concurrent, "expires_at": self.expires,
        })
    }
}

fn split(values: &[String]) -> BTreeSet<String> {
    let parts = values.iter().flat_map(|value| value.split(','));
    parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn unknown(what: &str, name: &str, known: &[String]) -> Error {
    let hint = if known.is_empty() {
        format!("the project file has no {what}s under `ai`")
    } else {
        format!("there are: {}", known.join(", "))
    };
    Error::new(ErrorKind::Invalid, format!("there is no {what} `{}`", name.escape_debug())).hint(hint)
}

fn check_name(argument: &'static str, name: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if (1..=NAME_LENGTH_MAX).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(KEY_PREFIX)
    {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, format!("this is no {argument}"))
        .with("argument", argument)
        .hint(format!("use 1 to {NAME_LENGTH_MAX} letters, digits, `-`, `_`, `.` and `@`")))
}

/// A day (its end, UTC), a time, or days from now.
fn expiry(now: Timestamp, text: &str) -> Result<Timestamp, Error> {
    let wrong = |message: &str| {
        Error::new(ErrorKind::Invalid, message.to_owned())
            .with("argument", "expires")
            .hint("write a day such as `2026-12-31`, a time such as `2026-12-31T18:00:00Z`, or `90d`")
    };
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let at = if let Some(days) = days {
        now.saturating_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(Timestamp::MAX)
    } else if let Ok(at) = text.parse::<Timestamp>() {
        at
    } else {
        let day: Date = text.parse().map_err(|_| wrong("this is no time"))?;
        let next = day.tomorrow().map_err(|_| wrong("this is no time"))?;
        next.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong("this is no time"))?.timestamp()
    };
    if at <= now { Err(wrong("the key would have ended already")) } else { Ok(at) }
}

/// What a key may call, for people.
fn reach(routes: &[String], models: &[String]) -> String {
    let mut parts = Vec::new();
    match routes {
        [] => {}
        [all] if all == "*" => parts.push("all routes".to_owned()),
        [one] => parts.push(format!("route {one}")),
        several => parts.push(format!("routes {}", several.join(", "))),
    }
    match models {
        [] => {}
        [all] if all == "*" => parts.push("all models".to_owned()),
        [one] => parts.push(format!("model {one}")),
        several => parts.push(format!("models {}", several.join(", "))),
    }
    parts.join(" and ")
}

fn state_of(key: &VirtualKey) -> String {
    let changed = key.regenerated_at.unwrap_or(key.created_at);
    format!("{} of {changed}", key.id)
}

fn stale(name: &str) -> Error {
    Error::new(ErrorKind::Conflict, "the virtual key has changed since the plan was made")
        .with("name", name)
        .with_retry(contract::Retry::Never)
        .hint("ask for the change again")
}

fn changed(error: Error, name: &str) -> Error {
    if error.kind() == ErrorKind::Conflict { stale(name) } else { error }
}

fn plan<R: Request>(ctx: &Context, request: &R, name: &str, summary: String) -> Plan {
    let target = format!("ai:key/{name}");
    Plan {
        request: R::NAME.into(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().into(),
        target,
        summary: summary.clone(),
        pre_state: String::new(),
        predicted: json!({}),
        steps: vec![PlanStep {
            id: R::NAME.into(),
            title: summary,
            mode: StepMode::Transaction,
            statements: Vec::new(),
            is_done: None,
            clean_up: Vec::new(),
            undo: Vec::new(),
            destructive: false,
            // A client whose key is withdrawn stops; another key brings it back, so nothing is lost.
            reversible: true,
            lock: None,
        }],
        cost_usd_nanos: 0,
    }
}

fn list(values: &[String]) -> String {
    serde_json::to_string(values).expect("texts are JSON")
}

fn stored(row: &Row) -> Result<StoredKey, Error> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "a virtual key's row does not hold what it should");
    let hash = |bytes: &[u8]| bytes.try_into().map(Fingerprint).map_err(|_| corrupt());
    let number = |name: &str| -> Result<Option<u32>, Error> {
        row.get_opt_i64(name)?.map(|number| u32::try_from(number).map_err(|_| corrupt())).transpose()
    };
    let mut hashes = vec![(hash(row.get_blob("key_hash")?)?, None)];
    if let Some(old) = row.get_opt_blob("old_hash")? {
        hashes.push((hash(old)?, Some(row.get_opt_time("old_until_us")?.ok_or_else(corrupt)?)));
    }
    let key = VirtualKey {
        id: row.get_text("id")?.to_owned(),
        project: row.get_text("project")?.to_owned(),
        name: row.get_text("name")?.to_owned(),
        routes: row.get_json("routes")?,
        models: row.get_json("models")?,
        // Whatever the row says: a virtual key never holds a role that approves.
        role: match Role::parse(row.get_text("role")?) {
            Some(role @ (Role::Reader | Role::Requester)) => role,
            _ => return Err(corrupt()),
        },
        person: row.get_opt_text("person")?.map(str::to_owned),
        rpm: number("rpm")?,
        tpm: number("tpm")?,
        concurrent: number("concurrent")?,
        created_at: row.get_time("created_us")?,
        regenerated_at: row.get_opt_time("regenerated_us")?,
        expires_at: row.get_opt_time("expires_us")?,
        revoked_at: row.get_opt_time("revoked_us")?,
    };
    Ok(StoredKey { key, hashes })
}
