//! Where the real servers are, and names that keep cases apart.

use std::time::{Duration, SystemTime};

/// The address in the environment variable `STEWARD_TEST_<SERVICE>_URL`.
///
/// # Panics
///
/// Without the variable: a suite that did not run is not green. The message says how to start the server.
pub fn server(variable: &str) -> String {
    match std::env::var(variable) {
        Ok(url) if !url.trim().is_empty() => url,
        _ => panic!("{}", missing(variable)),
    }
}

/// The address of the PostgreSQL that this run is about: `STEWARD_TEST_POSTGRES` says which version (17 without it).
///
/// # Panics
///
/// As [`server`].
pub fn postgres() -> String {
    let version = std::env::var("STEWARD_TEST_POSTGRES").unwrap_or_else(|_| "17".into());
    server(&format!("STEWARD_TEST_POSTGRES{version}_URL"))
}

fn missing(variable: &str) -> String {
    let service = variable
        .strip_prefix("STEWARD_TEST_")
        .and_then(|rest| rest.strip_suffix("_URL"))
        .unwrap_or(variable)
        .to_lowercase()
        .replace('_', "-");
    format!(
        "`{variable}` is not set, so this suite cannot run; start the server with `testbed/testbed up {service}` and \
         set it to what `testbed/testbed url {service}` prints"
    )
}

/// A name for one case's database, schema or key prefix: lower-case letters, digits and `_`, at most 48 bytes.
pub fn namespace(case: &str) -> String {
    let seconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("the machine's clock is past 1970")
        .as_secs();
    let mut random = uuid::Uuid::new_v4().simple().to_string();
    random.truncate(8);
    let case: String =
        case.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_').take(24).collect();
    format!("ct_{seconds:x}_{case}_{random}")
}

/// How long ago [`namespace`] made this name; `None` for any other name. Adapters use it to sweep what dead runs left.
pub fn namespace_age(name: &str) -> Option<Duration> {
    let seconds = u64::from_str_radix(name.strip_prefix("ct_")?.split('_').next()?, 16).ok()?;
    let made = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    Some(SystemTime::now().duration_since(made).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_server_names_the_command_that_starts_it() {
        assert!(missing("STEWARD_TEST_POSTGRES17_URL").contains("`testbed/testbed up postgres17`"));
        assert!(missing("STEWARD_TEST_MONGO_FERRET_URL").contains("`testbed/testbed up mongo-ferret`"));
    }

    #[test]
    #[should_panic(expected = "testbed/testbed up nowhere")]
    fn missing_server_fails_the_test() {
        server("STEWARD_TEST_NOWHERE_URL");
    }

    #[test]
    fn namespaces_are_short_unique_and_carry_their_age() {
        let (a, b) = (namespace("inspect_keeps_odd_identifiers_and_more"), namespace("inspect"));
        assert_ne!(namespace("inspect"), b);
        assert!(a.len() <= 48, "{a}");
        assert!(namespace_age(&a).unwrap() < Duration::from_mins(1));
        for other in ["public", "ct_", "ct_zz_x", "steward"] {
            assert_eq!(namespace_age(other), None, "{other}");
        }
    }
}
