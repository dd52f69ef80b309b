//! Licences of what we build from.

use crate::Package;

/// Permissive licences, which go together with MIT and Apache-2.0.
const ALLOWED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Additions to a licence that only permit more.
const ALLOWED_ADDITIONS: [&str; 1] = ["LLVM-exception"];

/// Packages that may be under the MPL-2.0, which asks for changes to their own files only.
const MPL_PACKAGES: [&str; 1] = [
    // Of `rustic_core`, to find the home folder for a cache that is switched off.
    "option-ext",
];

/// Packages whose licence is not permissive, missing, or not understood.
pub fn forbidden_licenses(packages: &[Package]) -> Vec<String> {
    packages.iter().filter_map(|package| check(package, &MPL_PACKAGES)).collect()
}

fn check(package: &Package, mpl_packages: &[&str]) -> Option<String> {
    let Package { name, version, license } = package;
    let Some(license) = license else {
        return Some(format!("{name} {version} names no licence"));
    };
    let is_allowed =
        |id: &str| ALLOWED.contains(&id) || (id == "MPL-2.0" && mpl_packages.contains(&name.as_str()));
    match Expression::evaluate(license, &is_allowed) {
        Some(true) => None,
        Some(false) => Some(format!("{name} {version} is under `{license}`")),
        None => Some(format!("{name} {version} has a licence that is not an SPDX expression: `{license}`")),
    }
}

/// Reads an SPDX expression from left to right; `AND` binds closer than `OR`, and the old `/` means `OR`.
///
/// Source: SPDX specification 2.3, annex D.
struct Expression<'a> {
    tokens: std::iter::Peekable<std::vec::IntoIter<String>>,
    is_allowed: &'a dyn Fn(&str) -> bool,
}

impl<'a> Expression<'a> {
    /// Whether the licence can be chosen so that all its parts are allowed; `None` if it cannot be read.
    fn evaluate(text: &str, is_allowed: &'a dyn Fn(&str) -> bool) -> Option<bool> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let tokens: Vec<String> = spaced.split_whitespace().map(str::to_owned).collect();
        let mut expression = Self { tokens: tokens.into_iter().peekable(), is_allowed };
        let allowed = expression.alternatives()?;
        expression.tokens.next().is_none().then_some(allowed)
    }

    fn alternatives(&mut self) -> Option<bool> {
        let mut allowed = self.parts()?;
        while self.tokens.next_if_eq("OR").is_some() {
            allowed |= self.parts()?;
        }
        Some(allowed)
    }

    fn parts(&mut self) -> Option<bool> {
        let mut allowed = self.license()?;
        while self.tokens.next_if_eq("AND").is_some() {
            allowed &= self.license()?;
        }
        Some(allowed)
    }

    fn license(&mut self) -> Option<bool> {
        let token = self.tokens.next()?;
        if token == "(" {
            let allowed = self.alternatives()?;
            return (self.tokens.next()? == ")").then_some(allowed);
        }
        if ["AND", "OR", "WITH", ")"].contains(&token.as_str()) {
            return None;
        }
        let mut allowed = (self.is_allowed)(&token);
        if self.tokens.next_if_eq("WITH").is_some() {
            allowed &= ALLOWED_ADDITIONS.contains(&self.tokens.next()?.as_str());
        }
        Some(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licenses_are_read_as_spdx_expressions() {
        for (license, refused) in [
            ("MIT", false),
            ("MIT/Apache-2.0", false),
            ("Apache-2.0 / MIT", false),
            ("GPL-3.0-only OR MIT", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", false),
            ("Apache-2.0 WITH LLVM-exception OR MIT", false),
            ("ISC AND (Apache-2.0 OR GPL-2.0-only) AND BSD-3-Clause", false),
            ("GPL-3.0-only", true),
            ("MIT AND GPL-3.0-only", true),
            ("MIT AND GPL-3.0-only OR AGPL-3.0-only", true),
            ("MIT OR GPL-3.0-only AND AGPL-3.0-only", false),
            ("(MIT OR GPL-3.0-only) AND AGPL-3.0-only", true),
            ("Apache-2.0 WITH Classpath-exception-2.0", true),
            ("MPL-2.0", true),
            ("LicenseRef-ours", true),
            ("", true),
            ("MIT OR", true),
            ("(MIT", true),
            ("MIT Apache-2.0", true),
            ("MIT)", true),
        ] {
            let package =
                Package { name: "x".into(), version: "1.0.0".into(), license: Some(license.into()) };
            assert_eq!(!forbidden_licenses(&[package]).is_empty(), refused, "{license}");
        }
        let package = Package { name: "x".into(), version: "1.0.0".into(), license: None };
        assert_eq!(forbidden_licenses(&[package]), ["x 1.0.0 names no licence"]);
    }

    #[test]
    fn mpl_is_for_named_packages() {
        let package = Package { name: "x".into(), version: "1.0.0".into(), license: Some("MPL-2.0".into()) };
        assert_eq!(check(&package, &["x"]), None);
        assert!(check(&package, &["y"]).is_some());
    }
}
