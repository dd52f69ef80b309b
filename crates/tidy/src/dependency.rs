//! Packages that are not built, those that need a fix, and drivers with one place each.

use crate::{Crate, Kind, Package};

/// Packages that must not be built, and what is there instead.
const BANNED: [(&str, &str); 7] = [
    ("ring", "aws-lc-rs is the one provider of cryptography"),
    ("openssl-sys", "rustls is the one TLS stack"),
    ("native-tls", "rustls is the one TLS stack"),
    ("serde_yml", "serde-saphyr reads YAML; this one is unsound"),
    ("serde_yaml", "serde-saphyr reads YAML; this one is abandoned"),
    ("async-std", "tokio is the one runtime; this one is abandoned"),
    ("dotenv", "only the door reads the environment"),
];

/// Versions from which on a known fault is repaired.
const REPAIRED: [(&str, [u64; 3]); 5] = [
    ("rustls", [0, 23, 46]),
    ("rustls-webpki", [0, 103, 16]),
    ("tokio", [1, 54, 1]),
    ("tokio-postgres", [0, 7, 18]),
    ("rmcp", [1, 4, 0]),
];

/// Packages that belong to some of our crates alone.
const OWNED: [(&str, &[&str]); 19] = [
    ("rusqlite", &["store-sqlite", "ledger"]),
    ("libsqlite3-sys", &["store-sqlite", "ledger"]),
    ("tokio-postgres", &["store-postgres", "ledger"]),
    ("tokio-postgres-rustls", &["store-postgres", "ledger"]),
    ("rustic_core", &["repository-restic"]),
    ("aes256ctr_poly1305aes", &["repository-restic"]),
    ("parquet", &["columnar-parquet"]),
    ("reqwest", &["outbound"]),
    ("keyring", &["vault"]),
    ("cedar-policy", &["authority"]),
    ("sqlparser", &["stores", "backup"]),
    ("axum", &["steward"]),
    ("hyper", &["steward", "outbound"]),
    ("hyper-util", &["steward", "outbound"]),
    ("tower", &["steward"]),
    ("rmcp", &["steward"]),
    ("clap", &["steward"]),
    ("rpassword", &["steward"]),
    ("tracing-subscriber", &["steward"]),
];

/// Drivers, which also tests reach for only at the door, where the linter's verdicts are measured on real servers, and where
/// backups of real files go through faults; the rest of [`OWNED`] anybody may use in tests.
const DRIVERS: [&str; 4] = ["rusqlite", "libsqlite3-sys", "tokio-postgres", "tokio-postgres-rustls"];

/// Packages that must not be part of the build.
pub fn banned_packages(packages: &[Package]) -> Vec<String> {
    let reason = |name: &str| BANNED.iter().find(|(banned, _)| *banned == name).map(|(_, reason)| *reason);
    packages
        .iter()
        .filter_map(|package| {
            Some(format!("{} {}: {}", package.name, package.version, reason(&package.name)?))
        })
        .collect()
}

/// Packages in a version with a known fault.
pub fn outdated_packages(packages: &[Package]) -> Vec<String> {
    let mut problems = Vec::new();
    for package in packages {
        let Some((_, minimum)) = REPAIRED.iter().find(|(name, _)| *name == package.name) else { continue };
        // A pre-release of the repaired version may be older than the repair.
        let plain = package.version.split('+').next().unwrap_or_default();
        let numbers: Option<Vec<u64>> = plain.split('.').map(|number| number.parse().ok()).collect();
        if numbers.is_none_or(|numbers| numbers.as_slice() < minimum.as_slice()) {
            let [major, minor, patch] = minimum;
            let Package { name, version, .. } = package;
            problems
                .push(format!("{name} {version} has a known fault; take {major}.{minor}.{patch} or later"));
        }
    }
    problems
}

/// Packages that one of our crates uses although they belong to others.
pub fn drivers_out_of_place(crates: &[Crate]) -> Vec<String> {
    let mut problems = Vec::new();
    for one in crates.iter().filter(|one| one.name != "benches") {
        for dependency in &one.dependencies {
            let name = dependency.name.as_str();
            let Some((_, owners)) = OWNED.iter().find(|(owned, _)| *owned == name) else { continue };
            let for_tests = dependency.kind == Kind::Dev
                && (!DRIVERS.contains(&name)
                    || ["steward", "stores", "gateway", "backup"].contains(&one.name.as_str()));
            if !owners.contains(&one.name.as_str()) && !for_tests {
                problems.push(format!(
                    "`{}` must not use `{name}`: it belongs to {}",
                    one.name,
                    owners.join(", ")
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dependency;

    fn package(name: &str, version: &str) -> Package {
        Package { name: name.into(), version: version.into(), license: None }
    }

    #[test]
    fn banned_packages_are_told_with_the_reason() {
        let packages = [package("ring", "0.17.14"), package("ringbuf", "1.0.0"), package("serde", "1.0.0")];
        assert_eq!(
            banned_packages(&packages),
            ["ring 0.17.14: aws-lc-rs is the one provider of cryptography"]
        );
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (name, version, outdated) in [
            ("rustls", "0.23.46", false),
            ("rustls", "0.23.100", false),
            ("rustls", "0.24.0", false),
            ("rustls", "0.23.9", true),
            ("rustls", "0.22.99", true),
            ("rustls", "0.23.46-rc.1", true),
            ("rustls", "0.23.46+build.1", false),
            ("rmcp", "3.11.0", false),
            ("rmcp", "1.3.9", true),
            ("serde", "0.0.1", false),
        ] {
            assert_eq!(
                !outdated_packages(&[package(name, version)]).is_empty(),
                outdated,
                "{name} {version}"
            );
        }
    }

    #[test]
    fn drivers_stay_in_their_crates() {
        for (name, dependency, kind, allowed) in [
            ("store-sqlite", "rusqlite", Kind::Normal, true),
            ("ledger", "rusqlite", Kind::Normal, true),
            ("steward", "tokio-postgres", Kind::Dev, true),
            ("benches", "rusqlite", Kind::Normal, true),
            ("outbound", "axum", Kind::Dev, true),
            ("stores", "serde", Kind::Normal, true),
            ("stores", "rusqlite", Kind::Normal, false),
            ("stores", "tokio-postgres", Kind::Dev, true),
            ("pm", "rusqlite", Kind::Dev, false),
            ("steward", "tokio-postgres", Kind::Normal, false),
            ("store-sqlite", "tokio-postgres", Kind::Normal, false),
            ("pm", "reqwest", Kind::Normal, false),
            ("stores", "axum", Kind::Normal, false),
            ("pm", "clap", Kind::Build, false),
        ] {
            let one = Crate {
                name: name.into(),
                folder: String::new(),
                dependencies: vec![Dependency { name: dependency.into(), kind }],
            };
            assert_eq!(drivers_out_of_place(&[one]).is_empty(), allowed, "{name} {dependency}");
        }
    }
}
