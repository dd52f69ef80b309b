//! Setting a repository up: it is made, and a recovery key that is shown once.

use std::fmt::Write as _;
use std::sync::Arc;

use contract::{
    Context, Effect, Error, ErrorKind, Finding, Outcome, Permit, Plan, PlanStep, Repository, RepositoryKey,
    Request, Severity, StepMode, Trigger,
};
use ledger::NewEvent;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Surroundings, signature};

/// What the recovery key's entry is called in the repository.
const RECOVERY: &str = "recovery";
/// The kind of event that a recovery key was made.
const RECOVERY_KEY_MADE: &str = "backup.recovery_key_made";
const RECOVERY_KEYS: &str = "SELECT subject FROM events WHERE project = ? AND kind = ? ORDER BY seq";
/// What a passphrase's entry is called.
const PASSPHRASE: &str = "passphrase";
/// Random bytes of a recovery key: 160 bits.
const RECOVERY_BYTES: usize = 20;
/// Crockford's base 32: no letter that is read as a digit. Source: crockford.com/base32.html.
const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Makes a backup repository and its recovery key, which is shown once; looks after the keys that open it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetupRepository {
    /// The repository's name in the project file. Default: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Make a new recovery key; those before it open nothing any more once the new one has been tried.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_recovery_key: bool,
    /// Only look which keys open it, and whether the recovery key is still among them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
    /// Try the recovery key, which is asked for; those before it open nothing any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub test_recovery_key: bool,
    /// Add a passphrase of your own that opens it, also with restic; it is asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub add_passphrase: bool,
    /// Take away the key with this id, or the beginning of it, as `--check` lists them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_key: Option<String>,
    /// Sign manifests with a new key from now on; what the one before has signed is known by the list of backups alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_signing_key: bool,
}

impl Request for SetupRepository {
    const NAME: &'static str = "backup.setup";
    const SUMMARY: &'static str = "Make a backup repository and its recovery key, which is shown once";
    const EXAMPLE: &'static str = "steward backup setup";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "backup.configure";
    const POSITIONAL: &'static [&'static str] = &["repository"];
}

impl SetupRepository {
    /// Whether a key or passphrase of a person goes with it.
    pub fn takes_secret(&self) -> bool {
        self.test_recovery_key || self.add_passphrase
    }

    /// Whether it looks after a repository that is there, and makes none.
    pub fn tends(&self) -> bool {
        self.check || self.takes_secret() || self.remove_key.is_some()
    }

    fn validate(&self) -> Result<(), Error> {
        let asked = [
            self.new_recovery_key,
            self.check,
            self.test_recovery_key,
            self.add_passphrase,
            self.remove_key.is_some(),
            self.new_signing_key,
        ];
        if asked.iter().filter(|asked| **asked).count() > 1 {
            return Err(Error::new(ErrorKind::Invalid, "one thing at a time: two flags were given")
                .hint("give one, and then the other"));
        }
        Ok(())
    }

    /// The repository that is meant.
    ///
    /// # Errors
    ///
    /// `NotFound`: the project has none, or none of this name.
    pub fn name(&self, around: &dyn Surroundings) -> Result<String, Error> {
        let known = around.repositories();
        match &self.repository {
            Some(name) if known.contains(name) => Ok(name.clone()),
            Some(name) => Err(Error::new(ErrorKind::NotFound, format!("there is no repository `{name}`"))
                .hint(format!("there are: {}", known.join(", ")))),
            None => known.into_iter().next().ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "the project has no backup repository")
                    .hint("add one under `backup.repositories` in steward.yaml")
            }),
        }
    }
}

/// Plans the set-up of a repository.
///
/// # Errors
///
/// As [`SetupRepository::name`].
pub fn plan_setup(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &SetupRepository,
) -> Result<Plan, Error> {
    request.validate()?;
    let name = request.name(around)?;
    let title = match request {
        _ if request.new_recovery_key => {
            format!("make the backup repository {name}, if it is not there, and a new recovery key")
        }
        _ if request.check => format!("look which keys open the backup repository {name}"),
        _ if request.test_recovery_key => {
            format!(
                "try the recovery key of the backup repository {name}; those before it open nothing any more"
            )
        }
        _ if request.add_passphrase => format!("add a passphrase that opens the backup repository {name}"),
        _ if request.new_signing_key => "sign the manifests of backups with a new key".to_owned(),
        SetupRepository { remove_key: Some(id), .. } => {
            format!("take the key {id} of the backup repository {name} out of force")
        }
        _ => format!("make the backup repository {name} and its recovery key, if they are not there"),
    };
    let step =
        PlanStep { reversible: true, ..PlanStep::new("setup", &title, StepMode::Transaction, Vec::new()) };
    Ok(Plan {
        request: SetupRepository::NAME.to_owned(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().to_owned(),
        target: format!("repository:{name}"),
        summary: title,
        steps: vec![step],
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    })
}

/// Makes the repository and, unless it has one, a recovery key, which is given back for whoever asked and kept nowhere.
///
/// # Errors
///
/// `Conflict`: a repository with another key is there. `Denied`: the key that was given is not the recovery key. As the
/// repository's.
pub async fn setup(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &SetupRepository,
    given: Option<&SecretString>,
) -> Result<(Outcome, Option<SecretString>), Error> {
    permit.covers(ctx, plan)?;
    let name = request.name(around)?;
    let repository = around.repository(ctx, &name).await?;
    if request.tends() {
        return tend(ctx, around, &repository, request, given).await.map(|outcome| (outcome, None));
    }
    repository.create(ctx).await?;
    let before: Vec<_> =
        repository.keys(ctx).await?.into_iter().filter(|key| key.label == RECOVERY).collect();
    let changeable = repository.changeable(ctx).await;
    let mut text = format!("the repository {name} is at {}\n", repository.address());
    if let Some(why) = &changeable {
        writeln!(text, "not protected against deletion: {why}").expect("writing to a string does not fail");
    }
    let mut made = None;
    if before.is_empty() || request.new_recovery_key {
        let key = recovery_key()?;
        let added = repository.add_key(ctx, RECOVERY, &key).await?;
        let event =
            NewEvent::new(RECOVERY_KEY_MADE, recovery_key_named(&added), json!({ "repository": name }));
        around.ledger().append(ctx, event).await?;
        text.push_str(
            "its recovery key follows; it is kept nowhere else. Print it: with it and restic the backups can be restored \
             without Steward.\n",
        );
        if !before.is_empty() {
            // Were the old one gone at once, a death before the new one is shown would leave none that anybody knows.
            text.push_str(
                "the one before it still opens the repository, until this one has been tried: steward backup setup \
                 --test-recovery-key\n",
            );
        }
        made = Some(key);
    } else {
        text.push_str("it has a recovery key; `--new-recovery-key` makes another\n");
    }
    let signing = signature::known(ctx, around).await?.into_iter().next();
    if let Some(signing) = &signing {
        writeln!(text, "backups are signed; write this beside the recovery key, to know them by: {signing}")
            .expect("writing to a string does not fail");
    }
    let value = json!({
        "repository": name, "address": repository.address(), "recovery_key_made": made.is_some(), "changeable": changeable,
        "signing_key": signing,
    });
    Ok((Outcome::new(value, text), made))
}

/// Looks after the keys of a repository that is there.
async fn tend(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
    request: &SetupRepository,
    given: Option<&SecretString>,
) -> Result<Outcome, Error> {
    let missing = || {
        Error::new(ErrorKind::Invalid, "no key was given")
            .hint("type it when it is asked for, or pipe it in: never write it on the command line")
    };
    let mut text = String::new();
    let mut tested = None;
    if request.test_recovery_key {
        match repository.opens_with(ctx, given.ok_or_else(missing)?).await? {
            Some(key) if key.label == RECOVERY => {
                writeln!(text, "this is the recovery key of {}: it opens the repository", repository.name())
                    .expect("writing to a string does not fail");
                let event = NewEvent::new(
                    "backup.recovery_key_tested",
                    format!("repository:{}", repository.name()),
                    json!({ "key": key.id }),
                );
                around.ledger().append(ctx, event).await?;
                text.push_str(&retire(ctx, around, repository, &key).await?);
                tested = Some(key.id);
            }
            Some(key) => {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!("this key opens the repository, and is not the recovery key but `{}`", key.label),
                )
                .with("repository", repository.name()));
            }
            None => {
                return Err(Error::new(ErrorKind::Denied, "this key does not open the repository")
                    .with("repository", repository.name())
                    .hint(
                        "if the recovery key is lost, make another: steward backup setup --new-recovery-key, then try it",
                    ));
            }
        }
    }
    if request.add_passphrase {
        let key = repository.add_key(ctx, PASSPHRASE, given.ok_or_else(missing)?).await?;
        writeln!(
            text,
            "the passphrase opens the repository from now on, also with restic: key {}",
            short(&key.id)
        )
        .expect("writing to a string does not fail");
    }
    if let Some(beginning) = &request.remove_key {
        let key = one_of(repository.keys(ctx).await?, beginning)?;
        repository.remove_key(ctx, &key.id).await?;
        writeln!(text, "the key {} ({}) opens nothing any more", short(&key.id), key.label)
            .expect("writing to a string does not fail");
    }
    let keys = repository.keys(ctx).await?;
    for key in &keys {
        let made = key.created.map_or_else(|| "unknown".to_owned(), |at| at.strftime("%Y-%m-%d").to_string());
        writeln!(text, "key {}  {:<12} made {made}", short(&key.id), key.label)
            .expect("writing to a string does not fail");
    }
    let findings: Vec<Finding> = without_recovery(repository.name(), &keys).into_iter().collect();
    for finding in &findings {
        writeln!(text, "{}", finding.title).expect("writing to a string does not fail");
    }
    let signing = signature::known(ctx, around).await?.into_iter().next();
    let value = json!({
        "repository": repository.name(), "keys": keys, "recovery_key": findings.is_empty(), "tested": tested,
        "signing_key": signing,
    });
    Ok(Outcome { findings, ..Outcome::new(value, text) })
}

/// Takes the recovery keys before this one, which its holder is known to have, out of force; says what there is to say.
async fn retire(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
    tried: &RepositoryKey,
) -> Result<String, Error> {
    // In the order of the trail, since clocks are set back. What is not in it was made before, or by a process that died before it
    // could show it.
    let rows =
        around.ledger().query(RECOVERY_KEYS, vec![ctx.project().into(), RECOVERY_KEY_MADE.into()]).await?;
    let made = rows.iter().map(|row| row.get_text("subject")).collect::<Result<Vec<_>, _>>()?;
    let place = |key: &RepositoryKey| made.iter().position(|subject| *subject == recovery_key_named(key));
    let mut text = String::new();
    for other in repository.keys(ctx).await?.iter().filter(|key| key.label == RECOVERY && key.id != tried.id)
    {
        let id = short(&other.id);
        let said = if (place(other), other.created) < (place(tried), tried.created) {
            repository.remove_key(ctx, &other.id).await?;
            format!("the recovery key {id}, which is older, opens nothing any more")
        } else {
            format!("the recovery key {id} is newer: once it has been tried, this one opens nothing any more")
        };
        writeln!(text, "{said}").expect("writing to a string does not fail");
    }
    Ok(text)
}

/// What the trail calls a recovery key.
fn recovery_key_named(key: &RepositoryKey) -> String {
    format!("recovery_key:{}", key.id)
}

/// The one key whose id begins like this; never the last recovery key.
fn one_of(keys: Vec<RepositoryKey>, beginning: &str) -> Result<RepositoryKey, Error> {
    let recovery = keys.iter().filter(|key| key.label == RECOVERY).count();
    let mut fitting = keys.into_iter().filter(|key| key.id.starts_with(beginning));
    match (fitting.next(), fitting.next()) {
        (Some(key), None) if key.label == RECOVERY && recovery == 1 => Err(Error::new(
            ErrorKind::Conflict,
            "this is the only recovery key",
        )
        .hint(
            "make another and try it, which takes this one out of force: steward backup setup --new-recovery-key, then \
             steward backup setup --test-recovery-key",
        )),
        (Some(key), None) if !beginning.is_empty() => Ok(key),
        (None, _) => Err(Error::new(ErrorKind::NotFound, format!("no key's id begins with `{beginning}`"))
            .hint("steward backup setup --check lists them")),
        _ => Err(Error::new(ErrorKind::Invalid, format!("several keys' ids begin with `{beginning}`"))
            .hint("give more of it: steward backup setup --check lists them")),
    }
}

/// Enough of an id to tell keys apart.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Whether nobody could open the repository any more if the vault were lost.
pub(crate) fn without_recovery(repository: &str, keys: &[RepositoryKey]) -> Option<Finding> {
    if keys.iter().any(|key| key.label == RECOVERY) {
        return None;
    }
    Some(Finding {
        code: "recovery_key_missing".into(),
        severity: Severity::Warning,
        title: format!("no recovery key opens the repository {repository} any more"),
        object: repository.to_owned(),
        recommendation: Some("steward backup setup --new-recovery-key".into()),
        evidence: Vec::new(),
        escalate: Some(Trigger::DataLossRisk),
    })
}

/// Eight groups of four letters.
fn recovery_key() -> Result<SecretString, Error> {
    let mut random = [0_u8; RECOVERY_BYTES];
    getrandom::fill(&mut random)
        .map_err(|cause| Error::new(ErrorKind::Unavailable, "no randomness").because(cause.to_string()))?;
    let mut text = String::with_capacity(39);
    for (number, group) in random.chunks(5).enumerate() {
        let bits = group.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for letter in 0..8 {
            if letter % 4 == 0 && (number, letter) != (0, 0) {
                text.push('-');
            }
            let index = usize::try_from(bits >> (35 - 5 * letter) & 31).expect("five bits");
            text.push(char::from(LETTERS[index]));
        }
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn recovery_keys_are_eight_groups_of_four_and_differ() {
        let (one, other) = (recovery_key().unwrap(), recovery_key().unwrap());
        assert_ne!(one.expose_secret(), other.expose_secret());
        let groups: Vec<&str> = one.expose_secret().split('-').collect();
        assert_eq!(groups.len(), 8, "{groups:?}");
        for group in groups {
            assert_eq!(group.len(), 4);
            assert!(group.bytes().all(|letter| LETTERS.contains(&letter)), "{group}");
        }
    }
}
