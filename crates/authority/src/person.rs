//! People: who may approve, and with which key.
//!
//! The first person of a project is taken on trust. After that, whoever is added or removed needs a voucher: someone
//! who already holds `pm` or `security` gives their passphrase, so that a program of the same user cannot make itself an
//! approver. What the table says about a person counts only as far as the chain of events says the same.

use std::collections::BTreeSet;

use aws_lc_rs::signature::Ed25519KeyPair;
use contract::{Actor, ActorKind, Context, Effect, Error, ErrorKind, Outcome, Request, Role};
use jiff::Timestamp;
use ledger::{EventFilter, Ledger, NewEvent, Row, Write};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::matrix::APPROVERS;
use crate::sealed_key::{self, NotOpened};

/// Wrong passphrases for one person within an hour from which on it is a matter for Security.
pub const WRONG_PASSPHRASES_MAX: usize = 3;

/// Gives someone a key and roles in the project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPerson {
    /// Name of the person, such as `anna`.
    pub name: String,
    /// Roles they hold, such as `pm`; may be given several times.
    pub role: Vec<Role>,
    /// Person with role `pm` or `security` who vouches; needed for everyone but the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouched_by: Option<String>,
}

impl Request for AddPerson {
    const NAME: &'static str = "person.add";
    const SUMMARY: &'static str = "Give someone a key, sealed with their passphrase, and roles";
    const EXAMPLE: &'static str = "steward person add anna --role pm";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "person.add";
    const POSITIONAL: &'static [&'static str] = &["name"];
}

/// Lists the people of the project and their roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListPeople {}

impl Request for ListPeople {
    const NAME: &'static str = "person.list";
    const SUMMARY: &'static str = "List people and their roles";
    const EXAMPLE: &'static str = "steward person list";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "person.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Takes someone's key away; approvals they gave and that were not used yet are refused from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemovePerson {
    /// Name of the person.
    pub name: String,
    /// Person with role `pm` or `security` who vouches, or the person themselves.
    pub vouched_by: String,
}

impl Request for RemovePerson {
    const NAME: &'static str = "person.remove";
    const SUMMARY: &'static str = "Take someone's key away";
    const EXAMPLE: &'static str = "steward person remove anna --vouched-by bert";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "person.remove";
    const POSITIONAL: &'static [&'static str] = &["name"];
}

/// Someone who holds a key in the project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Person {
    /// The name.
    pub name: String,
    /// The roles held.
    pub roles: BTreeSet<Role>,
    /// Ed25519, base64.
    pub public_key: String,
    /// Since when.
    pub added_at: Timestamp,
    #[serde(skip)]
    sealed_key: String,
}

/// What a signature is judged by.
pub(crate) struct Signer {
    pub(crate) public_key: String,
    pub(crate) roles: BTreeSet<Role>,
}

/// The people of all projects; which project is meant, the context says. Cheap to clone.
#[derive(Clone)]
pub struct People(Ledger);

impl People {
    /// The people recorded in this ledger.
    pub fn new(ledger: Ledger) -> Self {
        Self(ledger)
    }

    /// Adds a person. `passphrase` seals the new key; `voucher` is the passphrase of `vouched_by`.
    ///
    /// # Errors
    ///
    /// `Invalid`: name, roles or passphrase. `AlreadyExists`. `Forbidden`: an agent asks, or nobody vouches.
    /// `Denied`: the voucher's passphrase is wrong.
    pub async fn add(
        &self,
        ctx: &Context,
        request: &AddPerson,
        passphrase: SecretString,
        voucher: Option<SecretString>,
    ) -> Result<Outcome, Error> {
        people_only(ctx, "adds people")?;
        validate_name(&request.name)?;
        let roles: BTreeSet<Role> = request.role.iter().copied().collect();
        if roles.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "a person needs at least one role")
                .hint(format!("roles that approve: {}", names(&APPROVERS))));
        }
        sealed_key::validate_passphrase(&passphrase, &request.name)?;
        if self.active(ctx, &request.name).await?.is_some() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("there is a person `{}`", request.name),
            )
            .hint("remove them first to give them a new key or other roles"));
        }
        let vouched_by = self.vouch(ctx, request.vouched_by.as_deref(), voucher, None).await?;

        let belongs_to = format!("{}/{}", ctx.project(), request.name);
        let key = blocking(move || sealed_key::create(&passphrase, &belongs_to)).await?;
        let roles_json = serde_json::to_string(&roles).expect("roles are JSON");
        let event = NewEvent::new(
            "people.added",
            subject(&request.name),
            json!({"name": request.name, "roles": roles, "public_key": key.public, "vouched_by": vouched_by}),
        );
        let write = Write::new()
            .exec_expecting(
                "INSERT INTO people (project, name, roles, public_key, sealed_key, added_us) \
                 SELECT ?, ?, ?, ?, ?, ? WHERE NOT EXISTS \
                 (SELECT 1 FROM people WHERE project = ? AND name = ? AND removed_us IS NULL)",
                vec![
                    ctx.project().into(),
                    request.name.as_str().into(),
                    roles_json.into(),
                    key.public.as_str().into(),
                    key.sealed.into(),
                    ctx.now().into(),
                    ctx.project().into(),
                    request.name.as_str().into(),
                ],
                1,
            )
            .event(event)
            .bump("people");
        self.0.write(ctx, write).await?;
        let held: Vec<Role> = roles.iter().copied().collect();
        Ok(Outcome::new(
            json!({"name": request.name, "roles": roles, "public_key": key.public, "vouched_by": vouched_by}),
            format!("added {} with {}\npublic key {}", request.name, names(&held), key.public),
        ))
    }

    /// Everyone who holds a key in the project, by name.
    ///
    /// # Errors
    ///
    /// What the ledger returns.
    pub async fn all(&self, ctx: &Context) -> Result<Vec<Person>, Error> {
        let rows = self
            .0
            .query(
                "SELECT name, roles, public_key, sealed_key, added_us FROM people \
                 WHERE project = ? AND removed_us IS NULL ORDER BY name",
                vec![ctx.project().into()],
            )
            .await?;
        rows.iter().map(person).collect()
    }

    /// The list, as an answer.
    ///
    /// # Errors
    ///
    /// What the ledger returns.
    pub async fn list(&self, ctx: &Context, _request: &ListPeople) -> Result<Outcome, Error> {
        let people = self.all(ctx).await?;
        let mut lines = Vec::new();
        for person in &people {
            let roles: Vec<Role> = person.roles.iter().copied().collect();
            lines.push(format!("{:<20} {}", person.name, names(&roles)));
        }
        if people.is_empty() {
            lines.push(
                "nobody holds a key yet; `steward person add NAME --role pm` adds the first person"
                    .to_owned(),
            );
        }
        Ok(Outcome::new(json!({ "people": people }), lines.join("\n")))
    }

    /// Removes a person. `voucher` is the passphrase of `vouched_by`.
    ///
    /// # Errors
    ///
    /// `NotFound`. `Forbidden`: an agent asks, or the voucher may not vouch. `Denied`: wrong passphrase.
    pub async fn remove(
        &self,
        ctx: &Context,
        request: &RemovePerson,
        voucher: SecretString,
    ) -> Result<Outcome, Error> {
        people_only(ctx, "removes people")?;
        let person = self.get(ctx, &request.name).await?;
        let vouched_by =
            self.vouch(ctx, Some(&request.vouched_by), Some(voucher), Some(&person.name)).await?;
        let event = NewEvent::new(
            "people.removed",
            subject(&person.name),
            json!({"name": person.name, "public_key": person.public_key, "vouched_by": vouched_by}),
        );
        let write = Write::new()
            .exec_expecting(
                "UPDATE people SET removed_us = ? WHERE project = ? AND name = ? AND removed_us IS NULL",
                vec![ctx.now().into(), ctx.project().into(), person.name.as_str().into()],
                1,
            )
            .event(event)
            .bump("people");
        self.0.write(ctx, write).await?;
        Ok(Outcome::new(
            json!({"name": person.name, "removed": true, "vouched_by": vouched_by}),
            format!("removed {}", person.name),
        ))
    }

    /// The person as an actor, proven by their passphrase.
    ///
    /// # Errors
    ///
    /// `NotFound`. `Denied`: wrong passphrase. `Forbidden`: an agent asks, or the table says other than the chain.
    pub async fn prove(&self, ctx: &Context, name: &str, passphrase: SecretString) -> Result<Actor, Error> {
        people_only(ctx, "speaks for a person")?;
        let (person, _) = self.unlock(ctx, name, passphrase).await?;
        Ok(Actor::new(ActorKind::Person, person.name, person.roles))
    }

    /// Whether someone must vouch for the next person: there is one who can.
    ///
    /// # Errors
    ///
    /// What the ledger returns.
    pub async fn needs_voucher(&self, ctx: &Context) -> Result<bool, Error> {
        Ok(!vouchers(&self.all(ctx).await?).is_empty())
    }

    /// How many wrong passphrases were given for this person within the last hour.
    ///
    /// # Errors
    ///
    /// What the ledger returns.
    pub async fn wrong_passphrases(&self, ctx: &Context, name: &str) -> Result<usize, Error> {
        let hour = jiff::SignedDuration::from_hours(1);
        let filter = EventFilter {
            subject: Some(subject(name)),
            since: ctx.now().checked_sub(hour).ok(),
            ..EventFilter::project(ctx.project()).kind("passphrase.wrong").limit(100)
        };
        Ok(self.0.events(filter).await?.len())
    }

    /// The person, as both the table and the chain know them.
    ///
    /// # Errors
    ///
    /// `NotFound`: nobody of this name holds a key. `Forbidden`: the table says other than the chain.
    pub(crate) async fn proven(&self, ctx: &Context, name: &str) -> Result<Person, Error> {
        let person = self.get(ctx, name).await?;
        let filter = EventFilter {
            subject: Some(subject(name)),
            ..EventFilter::project(ctx.project()).kind("people.").newest().limit(1)
        };
        let events = self.0.events(filter).await?;
        let body =
            events.first().filter(|event| event.kind == "people.added").and_then(|event| event.body.as_ref());
        let roles: Option<BTreeSet<Role>> =
            body.and_then(|body| serde_json::from_value(body["roles"].clone()).ok());
        let key = body.and_then(|body| body["public_key"].as_str());
        if key != Some(&person.public_key) || roles.as_ref() != Some(&person.roles) {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!("the record of `{name}` does not agree with the audit trail"),
            )
            .with("person", name)
            .hint("the state file was edited; `steward audit verify` checks the trail"));
        }
        Ok(person)
    }

    /// The key and the roles that this person held just before entry `seq` of the trail, whether or not they still do.
    ///
    /// # Errors
    ///
    /// `Forbidden`: nobody of this name held a key then.
    pub(crate) async fn proven_before(&self, ctx: &Context, name: &str, seq: u64) -> Result<Signer, Error> {
        let filter = EventFilter {
            subject: Some(subject(name)),
            ..EventFilter::project(ctx.project()).kind("people.").newest()
        };
        let events = self.0.events(filter).await?;
        let then = events.iter().find(|event| event.seq < seq).filter(|event| event.kind == "people.added");
        then.and_then(|event| event.body.as_ref())
            .and_then(|body| {
                Some(Signer {
                    public_key: body["public_key"].as_str()?.to_owned(),
                    roles: serde_json::from_value(body["roles"].clone()).ok()?,
                })
            })
            .ok_or_else(|| {
                Error::new(ErrorKind::Forbidden, format!("nobody called `{name}` held a key then"))
                    .with("person", name)
                    .hint("the state file was edited; `steward audit verify` checks the trail")
            })
    }

    /// Opens the person's key. A wrong passphrase becomes an event.
    ///
    /// # Errors
    ///
    /// `Denied`: wrong passphrase. `Corrupt`: the sealed key is damaged. Otherwise as `proven`.
    pub(crate) async fn unlock(
        &self,
        ctx: &Context,
        name: &str,
        passphrase: SecretString,
    ) -> Result<(Person, Ed25519KeyPair), Error> {
        let person = self.proven(ctx, name).await?;
        let (belongs_to, public, sealed) =
            (format!("{}/{name}", ctx.project()), person.public_key.clone(), person.sealed_key.clone());
        match blocking(move || sealed_key::open(&passphrase, &belongs_to, &public, &sealed)).await? {
            Ok(pair) => Ok((person, pair)),
            Err(NotOpened::Damaged) => {
                Err(Error::new(ErrorKind::Corrupt, format!("the sealed key of `{name}` is damaged"))
                    .hint("remove the person and add them again"))
            }
            Err(NotOpened::WrongPassphrase) => {
                let event = NewEvent::new("passphrase.wrong", subject(name), json!({ "person": name }));
                self.0.append(ctx, event).await?;
                let wrong = self.wrong_passphrases(ctx, name).await?;
                Err(Error::new(ErrorKind::Denied, "wrong passphrase")
                    .with("person", name)
                    .with("wrong_passphrases", wrong)
                    .hint("it cannot be recovered: if it is lost, remove the person and add them again"))
            }
        }
    }

    async fn get(&self, ctx: &Context, name: &str) -> Result<Person, Error> {
        self.active(ctx, name).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("nobody called `{name}` holds a key in this project"))
                .hint("`steward person list` shows who does")
        })
    }

    async fn active(&self, ctx: &Context, name: &str) -> Result<Option<Person>, Error> {
        let rows = self
            .0
            .query(
                "SELECT name, roles, public_key, sealed_key, added_us FROM people \
                 WHERE project = ? AND name = ? AND removed_us IS NULL",
                vec![ctx.project().into(), name.into()],
            )
            .await?;
        rows.first().map(person).transpose()
    }

    /// Who vouched: nobody for the first person, `themselves` or another for a removal, otherwise a `pm` or `security`.
    async fn vouch(
        &self,
        ctx: &Context,
        name: Option<&str>,
        passphrase: Option<SecretString>,
        themselves: Option<&str>,
    ) -> Result<Option<String>, Error> {
        let people = self.all(ctx).await?;
        let able = vouchers(&people);
        if able.is_empty() && themselves.is_none() {
            self.agrees_with_trail(ctx, &people).await?;
            return Ok(None);
        }
        let (Some(name), Some(passphrase)) = (name, passphrase) else {
            return Err(Error::new(ErrorKind::Forbidden, "someone must vouch for this")
                .hint(format!("add `--vouched-by NAME` and their passphrase: {}", able.join(", "))));
        };
        if themselves != Some(name) && !able.iter().any(|able| able == name) {
            return Err(Error::new(ErrorKind::Forbidden, format!("`{name}` may not vouch"))
                .hint(format!("these people may: {}", able.join(", "))));
        }
        let (person, _) = self.unlock(ctx, name, passphrase).await?;
        Ok(Some(person.name))
    }

    /// A project whose people were deleted or demoted by hand must not pass for one that has nobody yet.
    async fn agrees_with_trail(&self, ctx: &Context, people: &[Person]) -> Result<(), Error> {
        let events =
            self.0.events(EventFilter::project(ctx.project()).kind("people.").newest().limit(10_000)).await?;
        let mut seen = BTreeSet::new();
        for event in events.iter().filter(|event| seen.insert(event.subject.as_str())) {
            let known = people.iter().find(|person| subject(&person.name) == event.subject);
            let roles: Option<BTreeSet<Role>> =
                event.body.as_ref().and_then(|body| serde_json::from_value(body["roles"].clone()).ok());
            let agrees = match known {
                None => event.kind == "people.removed",
                Some(person) => event.kind == "people.added" && roles.as_ref() == Some(&person.roles),
            };
            if !agrees {
                return Err(Error::new(
                    ErrorKind::Forbidden,
                    "the table of people does not agree with the audit trail",
                )
                .with("person", event.subject.trim_start_matches("person:"))
                .hint("the state file was edited; restore it from its backup"));
            }
        }
        Ok(())
    }
}

/// Refuses actors that are not people at the command line.
pub(crate) fn people_only(ctx: &Context, what: &str) -> Result<(), Error> {
    match ctx.actor().kind {
        ActorKind::Local | ActorKind::Person => Ok(()),
        ActorKind::Agent | ActorKind::Schedule | ActorKind::System => {
            Err(Error::new(ErrorKind::Forbidden, format!("`{}` never {what}", ctx.actor()))
                .with("policy", "access.agents-never-approve")
                .hint("a person does this at the command line"))
        }
    }
}

/// Refuses names that could be taken for something else in a policy, a path or a shell.
pub(crate) fn validate_name(name: &str) -> Result<(), Error> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    if name.is_empty()
        || name.len() > 64
        || !name.chars().all(fine)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Err(Error::new(ErrorKind::Invalid, "not a usable name")
            .with("name", format!("{name:?}"))
            .hint("1 to 64 of a-z, 0-9, `.`, `-`, `_`, beginning with a letter or digit"));
    }
    Ok(())
}

pub(crate) fn names(roles: &[Role]) -> String {
    roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ")
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Other, "the key could not be computed").because(error))
}

fn subject(name: &str) -> String {
    format!("person:{name}")
}

/// Those who may vouch: holders of `pm` or `security`; if there is none, whoever can approve anything.
fn vouchers(people: &[Person]) -> Vec<String> {
    let holding = |roles: &[Role]| -> Vec<String> {
        people
            .iter()
            .filter(|person| roles.iter().any(|role| person.roles.contains(role)))
            .map(|person| person.name.clone())
            .collect()
    };
    let first = holding(&[Role::Pm, Role::Security]);
    if first.is_empty() { holding(&APPROVERS) } else { first }
}

fn person(row: &Row) -> Result<Person, Error> {
    Ok(Person {
        name: row.get_text("name")?.to_owned(),
        roles: row.get_json("roles")?,
        public_key: row.get_text("public_key")?.to_owned(),
        added_at: row.get_time("added_us")?,
        sealed_key: row.get_text("sealed_key")?.to_owned(),
    })
}
