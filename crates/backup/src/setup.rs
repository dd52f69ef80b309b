//! Setting a repository up: it is made, and a recovery key that is shown once.

use std::fmt::Write as _;

use contract::{Context, Effect, Error, ErrorKind, Outcome, Permit, Plan, PlanStep, Request, StepMode};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Surroundings;

/// What the recovery key's entry is called in the repository.
const RECOVERY: &str = "recovery";
/// Random bytes of a recovery key: 160 bits.
const RECOVERY_BYTES: usize = 20;
/// Crockford's base 32: no letter that is read as a digit. Source: crockford.com/base32.html.
const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Makes a backup repository and its recovery key, which is shown once: whoever has it can restore without Steward.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetupRepository {
    /// The repository's name in the project file. Default: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Make a new recovery key; those before it open nothing any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_recovery_key: bool,
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
    let name = request.name(around)?;
    let title = if request.new_recovery_key {
        format!("make the backup repository {name}, if it is not there, and a new recovery key")
    } else {
        format!("make the backup repository {name} and its recovery key, if they are not there")
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
/// `Conflict`: a repository with another key is there. As the repository's.
pub async fn setup(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &SetupRepository,
) -> Result<(Outcome, Option<SecretString>), Error> {
    permit.covers(ctx, plan)?;
    let name = request.name(around)?;
    let repository = around.repository(ctx, &name).await?;
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
        repository.add_key(ctx, RECOVERY, &key).await?;
        for old in &before {
            repository.remove_key(ctx, &old.id).await?;
        }
        text.push_str(
            "its recovery key follows; it is kept nowhere else. Print it: with it and restic the backups can be restored \
             without Steward.\n",
        );
        made = Some(key);
    } else {
        text.push_str("it has a recovery key; `--new-recovery-key` makes another\n");
    }
    let value = json!({
        "repository": name, "address": repository.address(), "recovery_key_made": made.is_some(), "changeable": changeable,
    });
    Ok((Outcome::new(value, text), made))
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
