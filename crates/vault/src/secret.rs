//! Secrets by project, name and version.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use contract::{
    Context, Error, ErrorKind, Finding, Outcome, Permit, Plan, PlanStep, Request, SecretSource, Severity,
    Statement, StepMode,
};
use jiff::Timestamp;
use ledger::{Ledger, NewEvent, Row, Value, Write};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use serde::de::DeserializeOwned;
use serde_json::json;
use zeroize::Zeroizing;

use crate::envelope::{Place, Sealed, open, open_bytes, open_data_key, seal, seal_bytes};
use crate::request::validate_name;
use crate::{ListSecrets, MasterKey, PutSecret, REDACTED_LENGTH_MIN, Redactor, RemoveSecret, RotateSecret};

/// Longest value, in bytes: room for a chain of certificates.
pub const SECRET_SIZE_MAX: usize = 64 * 1024;

/// Last use is recorded this exactly, so that a busy store does not write at every connection.
const LAST_USED_RESOLUTION_US: i64 = 60_000_000;

/// Characters of a generated password, 24 of which hold 144 bits; none needs quoting anywhere.
const GENERATED_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const GENERATED_LENGTH: usize = 32;

const KEY_CHECK: &str = "vault_key_check";
const KEY_CHECK_PLACE: &[u8] = b"steward vault key check 1";

const SELECT_NEWEST: &str = include_str!("sql/select_newest.sql");
const SELECT_VERSION: &str = include_str!("sql/select_version.sql");
const SELECT_ALL: &str = include_str!("sql/select_all.sql");
const SELECT_VERSIONS: &str = include_str!("sql/select_versions.sql");
const INSERT_VERSION: &str = include_str!("sql/insert_version.sql");

/// Keeps secrets sealed in the state; cheap to clone.
#[derive(Clone)]
pub struct Vault {
    ledger: Ledger,
    key: std::sync::Arc<SecretBox<[u8; 32]>>,
    redactor: Redactor,
}

impl Vault {
    /// The vault in this state under this key. Nothing is read or written yet.
    pub fn new(ledger: Ledger, master: &MasterKey) -> Self {
        let redactor = Redactor::default();
        redactor.add(&master.text());
        Self { ledger, key: master.derive("vault/secrets").into(), redactor }
    }

    /// The same, telling `redactor` each value that it hands out or takes in.
    #[must_use]
    pub fn with_redactor(mut self, master: &MasterKey, redactor: Redactor) -> Self {
        redactor.add(&master.text());
        self.redactor = redactor;
        self
    }

    /// Knows the master key and every value that went through this vault.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Refuses when the state's secrets were sealed under another master key. Reads only.
    ///
    /// # Errors
    ///
    /// `Denied`: it is another key.
    pub async fn check(&self, ctx: &Context) -> Result<(), Error> {
        ctx.run(self.key_check_is_stored()).await.map(|_| ())
    }

    /// Whether the state has a key check; an error when it, or a secret, was sealed under another key.
    async fn key_check_is_stored(&self) -> Result<bool, Error> {
        let rows = self.ledger.query("SELECT value FROM meta WHERE name = ?", vec![KEY_CHECK.into()]).await?;
        if let Some(row) = rows.first() {
            let sealed = STANDARD.decode(row.get_text("value")?).unwrap_or_default();
            return match open_bytes(self.key.expose_secret(), KEY_CHECK_PLACE, &sealed) {
                Ok(_) => Ok(true),
                Err(_) => Err(wrong_key()),
            };
        }
        // Without a check a secret itself shows it: the check may have been deleted.
        let sql = "SELECT project, name, version, data_key FROM secrets ORDER BY created_us DESC LIMIT 1";
        if let Some(row) = self.ledger.query(sql, Vec::new()).await?.first() {
            let (project, name) = (row.get_text("project")?, row.get_text("name")?);
            let place = Place { project, name, version: row.get_i64("version")? };
            open_data_key(&self.key, place, row.get_blob("data_key")?).map_err(|_| wrong_key())?;
        }
        Ok(false)
    }

    /// The newest version of a secret. Its use is recorded, at most once a minute and without waiting for the disk.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such secret in the context's project. `Denied`: sealed under another master key. `Corrupt`:
    /// the row was altered or moved.
    pub async fn get(&self, ctx: &Context, name: &str) -> Result<SecretString, Error> {
        ctx.run(async {
            let parameters = vec![ctx.project().into(), name.into()];
            let rows = self.ledger.query(SELECT_NEWEST, parameters).await?;
            let Some(row) = rows.first() else { return Err(not_found(ctx, name)) };
            let version = row.get_i64("version")?;
            let sealed = Sealed {
                data_key: row.get_blob("data_key")?.to_vec(),
                value: row.get_blob("value")?.to_vec(),
            };
            let place = Place { project: ctx.project(), name, version };
            let Ok(value) = open(&self.key, place, &sealed) else {
                self.key_check_is_stored().await?;
                return Err(altered(name, version));
            };
            let text = std::str::from_utf8(&value).map_err(|_| altered(name, version))?;
            let secret = SecretString::from(text);
            self.redactor.add(&secret);
            let now_us = ctx.now().as_microsecond();
            let last_used_us = row.get_opt_i64("last_used_us")?;
            if last_used_us.is_none_or(|last_us| now_us - last_us >= LAST_USED_RESOLUTION_US) {
                self.record_use(ctx, name, version, now_us).await;
            }
            Ok(secret)
        })
        .await
    }

    /// One version of a secret. Its use is not recorded: versions are asked for by rotations and tables of keys.
    ///
    /// # Errors
    ///
    /// As for [`Vault::get`].
    pub async fn version(&self, ctx: &Context, name: &str, version: i64) -> Result<SecretString, Error> {
        ctx.run(async {
            let parameters = vec![ctx.project().into(), name.into(), version.into()];
            let rows = self.ledger.query(SELECT_VERSION, parameters).await?;
            let Some(row) = rows.first() else { return Err(not_found(ctx, name).with("version", version)) };
            self.unsealed(ctx.project(), row).await
        })
        .await
    }

    /// Shows every version of every secret of the project to `see`, which must not keep the values: for what compares
    /// them with something, such as a search for exposed ones.
    ///
    /// # Errors
    ///
    /// As for [`Vault::get`].
    pub async fn visit(
        &self,
        ctx: &Context,
        mut see: impl FnMut(&str, i64, &SecretString),
    ) -> Result<(), Error> {
        let rows = ctx.run(self.ledger.query(SELECT_ALL, vec![ctx.project().into()])).await?;
        for row in &rows {
            let value = ctx.run(self.unsealed(ctx.project(), row)).await?;
            see(row.get_text("name")?, row.get_i64("version")?, &value);
        }
        Ok(())
    }

    /// The value in a row with name, version and both seals.
    async fn unsealed(&self, project: &str, row: &Row) -> Result<SecretString, Error> {
        let (name, version) = (row.get_text("name")?, row.get_i64("version")?);
        let sealed =
            Sealed { data_key: row.get_blob("data_key")?.to_vec(), value: row.get_blob("value")?.to_vec() };
        let Ok(value) = open(&self.key, Place { project, name, version }, &sealed) else {
            self.key_check_is_stored().await?;
            return Err(altered(name, version));
        };
        let secret = SecretString::from(std::str::from_utf8(&value).map_err(|_| altered(name, version))?);
        self.redactor.add(&secret);
        Ok(secret)
    }

    async fn record_use(&self, ctx: &Context, name: &str, version: i64, now_us: i64) {
        let sql = "UPDATE secrets SET last_used_us = ? WHERE project = ? AND name = ? AND version = ?";
        let parameters = vec![now_us.into(), ctx.project().into(), name.into(), version.into()];
        if let Err(error) = self.ledger.write(ctx, Write::new().exec(sql, parameters).unsynced()).await {
            // A state that cannot be written must not keep a store from being read.
            tracing::warn!(secret = name, %error, "last use of a secret not recorded");
        }
    }

    /// The project's secrets with versions and last use, never values.
    ///
    /// # Errors
    ///
    /// `Corrupt`: a row does not hold what it should.
    pub async fn list(&self, ctx: &Context, _request: &ListSecrets) -> Result<Outcome, Error> {
        let mut secrets: BTreeMap<String, Vec<Version>> = BTreeMap::new();
        let sql = "SELECT name, version, created_us, last_used_us FROM secrets WHERE project = ? ORDER BY name, version";
        for row in ctx.run(self.ledger.query(sql, vec![ctx.project().into()])).await? {
            secrets.entry(row.get_text("name")?.to_owned()).or_default().push(Version::from_row(&row)?);
        }
        if secrets.is_empty() {
            return Ok(Outcome::new(json!({ "secrets": [] }), "no secrets"));
        }
        let mut text = String::new();
        let mut values = Vec::new();
        let name_width = secrets.keys().map(String::len).max().unwrap_or_default();
        for (name, versions) in &secrets {
            let newest = versions.last().expect("a name is in the map because of a version");
            let last_used = versions.iter().filter_map(|version| version.last_used).max();
            let numbers: Vec<i64> = versions.iter().map(|version| version.number).collect();
            let shown = numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
            let used = last_used.map_or("never used".to_owned(), |at| format!("last used {}", minute(at)));
            let created = minute(newest.created);
            writeln!(text, "{name:name_width$}  version {shown}  written {created}  {used}")
                .expect("writing to a string does not fail");
            values.push(json!({
                "name": name,
                "version": newest.number,
                "versions": numbers,
                "created_at": newest.created,
                "last_used_at": last_used,
            }));
        }
        text.truncate(text.trim_end().len());
        Ok(Outcome::new(json!({ "secrets": values }), text))
    }

    /// The plan that stores a new secret.
    ///
    /// # Errors
    ///
    /// `Invalid`: the name. `AlreadyExists`: there is such a secret; the hint names `secret rotate`.
    pub async fn plan_put(&self, ctx: &Context, request: &PutSecret) -> Result<Plan, Error> {
        let versions = self.versions(ctx, &request.name).await?;
        if !versions.is_empty() {
            return Err(Error::new(ErrorKind::AlreadyExists, "there is a secret of this name already")
                .with("name", &request.name)
                .hint(format!("give it a new value with `steward secret rotate {}`", request.name)));
        }
        Ok(plan(
            ctx,
            request,
            &request.name,
            &versions,
            PlanStep {
                title: format!("store the secret `{}`", request.name),
                reversible: true,
                ..step(&request.name, 1)
            },
        ))
    }

    /// The plan that gives a secret a new value.
    ///
    /// # Errors
    ///
    /// `Invalid`: the name. `NotFound`: no such secret.
    pub async fn plan_rotate(&self, ctx: &Context, request: &RotateSecret) -> Result<Plan, Error> {
        let versions = self.versions(ctx, &request.name).await?;
        let Some(newest) = versions.last() else { return Err(not_found(ctx, &request.name)) };
        let title = format!(
            "give the secret `{}` a new value, version {}; version {newest} is kept",
            request.name,
            newest + 1
        );
        Ok(plan(
            ctx,
            request,
            &request.name,
            &versions,
            PlanStep { title, reversible: true, ..step(&request.name, newest + 1) },
        ))
    }

    /// The plan that removes a secret or one of its versions; what is removed cannot be brought back.
    ///
    /// # Errors
    ///
    /// `Invalid`: the name. `NotFound`: no such secret or version.
    pub async fn plan_remove(&self, ctx: &Context, request: &RemoveSecret) -> Result<Plan, Error> {
        let versions = self.versions(ctx, &request.name).await?;
        let Some(&newest) = versions.last() else { return Err(not_found(ctx, &request.name)) };
        let title = match request.version {
            Some(version) if !versions.contains(&version) => {
                return Err(Error::new(ErrorKind::NotFound, "the secret has no such version")
                    .with("name", &request.name)
                    .with("version", version)
                    .hint(format!("it has {}", state(&versions))));
            }
            Some(version) => format!("remove version {version} of the secret `{}`", request.name),
            None => format!("remove the secret `{}` with {}", request.name, state(&versions)),
        };
        Ok(plan(
            ctx,
            request,
            &request.name,
            &versions,
            PlanStep { title, destructive: true, ..step(&request.name, request.version.unwrap_or(newest)) },
        ))
    }

    /// Carries out a plan of [`Vault::plan_put`], [`Vault::plan_rotate`] or [`Vault::plan_remove`]; the first two take the
    /// new `value`. The event `secret.put`, `secret.rotate` or `secret.remove` is written in the same transaction.
    ///
    /// # Errors
    ///
    /// `Forbidden`: the permit is not for this plan. `Conflict`: the secret has changed since. `Invalid`: the value
    /// is missing, empty or too long. `Denied`: the state's secrets were sealed under another master key. In each
    /// case nothing was written.
    pub async fn execute(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        value: Option<SecretString>,
    ) -> Result<Outcome, Error> {
        permit.covers(ctx, plan)?;
        match plan.request.as_str() {
            PutSecret::NAME => {
                let request: PutSecret = arguments(plan)?;
                self.add_version(ctx, plan, &request.name, &value.ok_or_else(no_value)?).await
            }
            RotateSecret::NAME => {
                let request: RotateSecret = arguments(plan)?;
                self.add_version(ctx, plan, &request.name, &value.ok_or_else(no_value)?).await
            }
            RemoveSecret::NAME => self.remove(ctx, plan, &arguments(plan)?).await,
            other => Err(Error::new(ErrorKind::Invalid, "the vault does not carry out such plans")
                .with("request", other)),
        }
    }

    /// Makes a random value for each secret that a permitted plan of any room names in its statements and that does
    /// not exist yet, such as the passwords of `store setup`. Returns the names of those made.
    ///
    /// # Errors
    ///
    /// As for [`Vault::execute`].
    pub async fn generate_missing(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
    ) -> Result<Vec<String>, Error> {
        permit.covers(ctx, plan)?;
        let statements = plan.steps.iter().flat_map(|step| {
            step.statements.iter().chain(&step.is_done).chain(&step.clean_up).chain(&step.undo)
        });
        let names: std::collections::BTreeSet<&String> =
            statements.flat_map(|statement: &Statement| statement.secrets.values()).collect();
        let mut made = Vec::new();
        for name in names {
            if self.versions(ctx, name).await?.is_empty() {
                let value = generated();
                self.redactor.add(&value);
                self.insert(ctx, "secret.put", name, &[], &value).await?;
                made.push(name.clone());
            }
        }
        Ok(made)
    }

    /// Stores a new secret for a permitted plan of another room, such as the key of a backup repository.
    ///
    /// # Errors
    ///
    /// As for [`Vault::execute`]; `Conflict`: it exists.
    pub async fn make_for(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        name: &str,
        value: &SecretString,
    ) -> Result<(), Error> {
        permit.covers(ctx, plan)?;
        self.redactor.add(value);
        check_length(name, value)?;
        self.insert(ctx, PutSecret::NAME, name, &[], value).await.map(|_| ())
    }

    /// Adds the version after `newest` to a secret, for a permitted plan of another room, such as a verified rotation.
    /// Returns its number.
    ///
    /// # Errors
    ///
    /// As for [`Vault::execute`].
    pub async fn add_for(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        name: &str,
        newest: i64,
        value: &SecretString,
    ) -> Result<i64, Error> {
        permit.covers(ctx, plan)?;
        self.redactor.add(value);
        check_length(name, value)?;
        self.insert(ctx, RotateSecret::NAME, name, &[newest], value).await
    }

    /// Removes a secret that a permitted plan of another room has used up, such as a new key that was put in force.
    ///
    /// # Errors
    ///
    /// As for [`Vault::execute`].
    pub async fn remove_for(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        name: &str,
    ) -> Result<(), Error> {
        permit.covers(ctx, plan)?;
        let versions = self.versions(ctx, name).await?;
        let sql = "DELETE FROM secrets WHERE project = ? AND name = ?";
        let parameters = vec![ctx.project().into(), name.into()];
        let mut write = Write::new().exec_expecting(sql, parameters, versions.len() as u64);
        for &version in &versions {
            write = write.event(event(RemoveSecret::NAME, name, version));
        }
        self.ledger.write(ctx, write.bump("secrets")).await.map(|_| ())
    }

    async fn add_version(
        &self,
        ctx: &Context,
        plan: &Plan,
        name: &str,
        value: &SecretString,
    ) -> Result<Outcome, Error> {
        self.redactor.add(value);
        let length = check_length(name, value)?;
        let versions = self.unchanged_versions(ctx, plan, name).await?;
        let version = self.insert(ctx, &plan.request, name, &versions, value).await?;
        let mut outcome = Outcome::new(
            json!({ "name": name, "version": version }),
            format!("stored secret {name}, version {version}"),
        );
        if length < REDACTED_LENGTH_MIN {
            outcome.findings.push(Finding {
                code: "short_secret".into(),
                severity: Severity::Warning,
                title: format!(
                    "the secret `{name}` is shorter than {REDACTED_LENGTH_MIN} bytes, too short to be found in output"
                ),
                object: name.into(),
                recommendation: Some(format!("choose a longer one: `steward secret rotate {name}`")),
                evidence: Vec::new(),
                escalate: None,
            });
        }
        Ok(outcome)
    }

    /// Adds the version after `versions` and returns its number.
    async fn insert(
        &self,
        ctx: &Context,
        kind: &str,
        name: &str,
        versions: &[i64],
        value: &SecretString,
    ) -> Result<i64, Error> {
        let key_check_is_stored = ctx.run(self.key_check_is_stored()).await?;
        let newest = versions.last().copied().unwrap_or(0);
        let version = newest + 1;
        let place = Place { project: ctx.project(), name, version };
        let sealed = seal(&self.key, place, value.expose_secret().as_bytes());
        let mut write = Write::new();
        if !key_check_is_stored {
            let check = seal_bytes(self.key.expose_secret(), KEY_CHECK_PLACE, b"");
            // Another process may store the same one first; the ledger opens for one master key only.
            write = write.exec(
                "INSERT INTO meta (name, value) SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM meta WHERE name = ?)",
                vec![KEY_CHECK.into(), STANDARD.encode(check).into(), KEY_CHECK.into()],
            );
        }
        let parameters: Vec<Value> = vec![
            ctx.project().into(),
            name.into(),
            version.into(),
            sealed.data_key.into(),
            sealed.value.into(),
            ctx.now().as_microsecond().into(),
            ctx.project().into(),
            name.into(),
            newest.into(),
        ];
        let write = write
            .exec_expecting(INSERT_VERSION, parameters, 1)
            .event(event(kind, name, version))
            .bump("secrets");
        self.ledger.write(ctx, write).await.map_err(|error| match error.kind() {
            ErrorKind::Conflict => changed_meanwhile(name).with("found", "another version, written just now"),
            _ => error,
        })?;
        tracing::info!(secret = name, version, "secret stored");
        Ok(version)
    }

    async fn remove(&self, ctx: &Context, plan: &Plan, request: &RemoveSecret) -> Result<Outcome, Error> {
        let name = request.name.as_str();
        let versions = self.unchanged_versions(ctx, plan, name).await?;
        ctx.run(self.key_check_is_stored()).await?;
        let mut parameters: Vec<Value> = vec![ctx.project().into(), name.into()];
        let removed = match request.version {
            Some(version) => vec![version],
            None => versions,
        };
        let mut write = Write::new();
        if let Some(version) = request.version {
            parameters.push(version.into());
            let sql = "DELETE FROM secrets WHERE project = ? AND name = ? AND version = ?";
            write = write.exec_expecting(sql, parameters, 1);
        } else {
            let sql = "DELETE FROM secrets WHERE project = ? AND name = ?";
            write = write.exec_expecting(sql, parameters, removed.len() as u64);
        }
        for &version in &removed {
            write = write.event(event(RemoveSecret::NAME, name, version));
        }
        self.ledger.write(ctx, write.bump("secrets")).await?;
        tracing::info!(secret = name, versions = removed.len(), "secret removed");
        let text = format!("removed secret {name}, {}", state(&removed));
        Ok(Outcome::new(json!({ "name": name, "removed": removed }), text))
    }

    /// Versions of a secret in rising order.
    ///
    /// # Errors
    ///
    /// `Invalid`: the name.
    pub async fn versions(&self, ctx: &Context, name: &str) -> Result<Vec<i64>, Error> {
        validate_name(name)?;
        let parameters = vec![ctx.project().into(), name.into()];
        ctx.run(self.ledger.query(SELECT_VERSIONS, parameters))
            .await?
            .iter()
            .map(|row| row.get_i64("version"))
            .collect()
    }

    /// The same, refused when they are no longer those that the plan was made for.
    async fn unchanged_versions(&self, ctx: &Context, plan: &Plan, name: &str) -> Result<Vec<i64>, Error> {
        let versions = self.versions(ctx, name).await?;
        if state(&versions) == plan.pre_state {
            return Ok(versions);
        }
        Err(changed_meanwhile(name).with("planned_for", &plan.pre_state).with("found", state(&versions)))
    }
}

#[async_trait]
impl SecretSource for Vault {
    async fn secret(&self, ctx: &Context, name: &str) -> Result<SecretString, Error> {
        self.get(ctx, name).await
    }
}

/// The length of a value that can be stored.
fn check_length(name: &str, value: &SecretString) -> Result<usize, Error> {
    let length = value.expose_secret().len();
    if length == 0 || length > SECRET_SIZE_MAX {
        return Err(Error::new(ErrorKind::Invalid, "the value of a secret has the wrong length")
            .with("name", name)
            .with("size_bytes", length)
            .hint(format!("give between 1 and {SECRET_SIZE_MAX} bytes")));
    }
    Ok(length)
}

/// The versions are not those that the plan was made for.
fn changed_meanwhile(name: &str) -> Error {
    Error::new(ErrorKind::Conflict, "the secret has changed since the plan was made")
        .with("name", name)
        .with_retry(contract::Retry::Never)
        .hint("ask for the change again")
}

struct Version {
    number: i64,
    created: Timestamp,
    last_used: Option<Timestamp>,
}

impl Version {
    fn from_row(row: &Row) -> Result<Self, Error> {
        let time = |at_us: i64| {
            Timestamp::from_microsecond(at_us).map_err(|error| {
                Error::new(ErrorKind::Corrupt, "a secret's time does not exist").because(error)
            })
        };
        Ok(Self {
            number: row.get_i64("version")?,
            created: time(row.get_i64("created_us")?)?,
            last_used: row.get_opt_i64("last_used_us")?.map(time).transpose()?,
        })
    }
}

fn plan<R: Request>(ctx: &Context, request: &R, name: &str, versions: &[i64], step: PlanStep) -> Plan {
    Plan {
        request: R::NAME.into(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().into(),
        target: format!("secret:{name}"),
        summary: step.title.clone(),
        pre_state: state(versions),
        predicted: json!({ "versions_before": versions.len() }),
        steps: vec![step],
        cost_usd_nanos: 0,
    }
}

/// A step without statements: the value that would be in one is a secret.
fn step(name: &str, version: i64) -> PlanStep {
    PlanStep::new(format!("{name}@{version}"), String::new(), StepMode::Transaction, Vec::new())
}

/// A secret's state as plans and messages name it.
fn state(versions: &[i64]) -> String {
    match versions {
        [] => "no version".into(),
        [one] => format!("version {one}"),
        many => format!("versions {}", many.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")),
    }
}

fn event(kind: &str, name: &str, version: i64) -> NewEvent {
    NewEvent {
        kind: kind.into(),
        subject: format!("secret:{name}"),
        body: json!({ "name": name, "version": version }),
    }
}

fn arguments<R: DeserializeOwned>(plan: &Plan) -> Result<R, Error> {
    serde_json::from_value(plan.arguments.clone()).map_err(|error| {
        Error::new(ErrorKind::Invalid, "the plan's arguments are not those of its request")
            .with("request", &plan.request)
            .because(error)
    })
}

fn generated() -> SecretString {
    let mut bytes = Zeroizing::new([0_u8; GENERATED_LENGTH]);
    getrandom::fill(&mut *bytes).expect("the operating system gives random bytes");
    let mut text = Zeroizing::new(String::with_capacity(GENERATED_LENGTH));
    // 64 divides 256, so every character is equally likely.
    text.extend(bytes.iter().map(|byte| char::from(GENERATED_ALPHABET[usize::from(byte % 64)])));
    SecretString::from(text.as_str())
}

fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%MZ").to_string()
}

fn no_value() -> Error {
    Error::new(ErrorKind::Invalid, "the value of the secret is missing")
        .hint("pipe it in or type it at the prompt; it is never an argument")
}

fn not_found(ctx: &Context, name: &str) -> Error {
    Error::new(ErrorKind::NotFound, "there is no such secret")
        .with("name", name)
        .with("project", ctx.project())
        .hint(format!("store it with `steward secret put {name}`"))
}

fn wrong_key() -> Error {
    Error::new(ErrorKind::Denied, "the master key is not the one that the secrets were sealed with").hint(
        "load the key that belongs to this state: `.steward/master.key`, STEWARD_MASTER_KEY or the keyring's entry; \
         nothing was changed",
    )
}

fn altered(name: &str, version: i64) -> Error {
    Error::new(ErrorKind::Corrupt, "the secret was altered or moved outside Steward")
        .with("name", name)
        .with("version", version)
        .hint(format!(
            "give it a new value with `steward secret rotate {name}`, and find out who wrote the state"
        ))
}
