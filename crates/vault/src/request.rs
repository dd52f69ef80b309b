//! What can be asked of the vault. Values of secrets are never arguments: the door reads them from standard input or a
//! prompt and hands them over apart.

use contract::{Effect, Error, ErrorKind, Request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest name of a secret, in bytes.
const NAME_LENGTH_MAX: usize = 200;

/// Stores a new secret, such as a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutSecret {
    /// Name of the secret, such as `orders/password`.
    pub name: String,
}

impl Request for PutSecret {
    const NAME: &'static str = "secret.put";
    const SUMMARY: &'static str = "Store a new secret; its value comes from standard input or a prompt";
    const EXAMPLE: &'static str = "steward secret put orders/password";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "key.write";
    const POSITIONAL: &'static [&'static str] = &["name"];
}

/// Lists the secrets' names, versions and last use, never values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListSecrets {}

impl Request for ListSecrets {
    const NAME: &'static str = "secret.list";
    const SUMMARY: &'static str = "List secrets with their versions and last use, without values";
    const EXAMPLE: &'static str = "steward secret list";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "key.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Gives a secret a new value and keeps the versions before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateSecret {
    /// Name of the secret, such as `orders/password`.
    pub name: String,
}

impl Request for RotateSecret {
    const NAME: &'static str = "secret.rotate";
    const SUMMARY: &'static str = "Give a secret a new value; the versions before it are kept until removed";
    const EXAMPLE: &'static str = "steward secret rotate orders/password";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "key.rotate";
    const POSITIONAL: &'static [&'static str] = &["name"];
}

/// Removes a secret, or one of its versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveSecret {
    /// Name of the secret, such as `orders/password`.
    pub name: String,
    /// Only this version; without it all are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
}

impl Request for RemoveSecret {
    const NAME: &'static str = "secret.remove";
    const SUMMARY: &'static str = "Remove a secret with all its versions, or one version";
    const EXAMPLE: &'static str = "steward secret remove orders/password --version 1";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "key.remove";
    const POSITIONAL: &'static [&'static str] = &["name"];
}

/// Refuses names that could be taken for something else in a path, a policy or a shell.
pub(crate) fn validate_name(name: &str) -> Result<(), Error> {
    let part_is_plain = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.chars().all(|character| character.is_ascii_alphanumeric() || "._-".contains(character))
    };
    if name.len() <= NAME_LENGTH_MAX && name.split('/').all(part_is_plain) {
        return Ok(());
    }
    // The name is shown escaped and cut: a value may have been typed in its place.
    let shown: String = name.chars().take(12).flat_map(char::escape_default).collect();
    Err(Error::new(ErrorKind::Invalid, "the name of a secret has other characters than it may have")
        .with("name", format_args!("{shown}…"))
        .hint("write parts of letters, digits, `.`, `_` and `-` with `/` between, such as `orders/password`"))
}

#[cfg(test)]
mod tests {
    use contract::RequestSpec;

    use super::*;

    #[test]
    fn names_are_checked() {
        for name in ["orders/password", "a", "A.b-c_9/x/y", &"a".repeat(200)] {
            assert!(validate_name(name).is_ok(), "{name}");
        }
        for name in
            ["", "/", "a/", "/a", "a//b", "..", "a/../b", "-a", "a b", "a\n", "ä", "a'b", &"a".repeat(201)]
        {
            assert_eq!(validate_name(name).unwrap_err().kind(), ErrorKind::Invalid, "{name}");
        }
    }

    #[test]
    fn no_request_takes_a_value() {
        for spec in [
            RequestSpec::of::<PutSecret>(),
            RequestSpec::of::<ListSecrets>(),
            RequestSpec::of::<RotateSecret>(),
            RequestSpec::of::<RemoveSecret>(),
        ] {
            let fields: Vec<&str> = spec.schema["properties"]
                .as_object()
                .map(|properties| properties.keys().map(String::as_str).collect())
                .unwrap_or_default();
            assert!(
                fields.iter().all(|field| ["name", "version"].contains(field)),
                "{}: {fields:?}",
                spec.name
            );
        }
        assert!(serde_json::from_str::<PutSecret>(r#"{"name": "a", "value": "hunter2"}"#).is_err());
    }
}
