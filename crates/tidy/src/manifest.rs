//! What every `Cargo.toml` of ours says.

use std::collections::BTreeMap;

use crate::Crate;

/// Manifests without the workspace's lints, or with a version of their own for a package.
pub fn untidy_manifests(crates: &[Crate], files: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    for one in crates {
        let path = format!("{}/Cargo.toml", one.folder);
        let Some(manifest) = files.get(&path) else {
            problems.push(format!("`{path}` cannot be read"));
            continue;
        };
        let mut section = "";
        let mut lints_are_shared = false;
        for line in manifest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            if line.starts_with('[') {
                section = line;
                continue;
            }
            let from_the_workspace = line.contains("workspace = true");
            lints_are_shared |= section == "[lints]" && from_the_workspace;
            if section.ends_with("dependencies]") && !from_the_workspace {
                problems.push(format!("`{path}`: `{line}` has its version in the workspace's manifest"));
            }
        }
        if !lints_are_shared {
            problems.push(format!("`{path}`: `[lints] workspace = true` is missing"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lints_and_versions_come_from_the_workspace() {
        let one = Crate { name: "pm".into(), folder: "crates/pm".into(), dependencies: Vec::new() };
        let good = "[lints]\nworkspace = true\n\n[dependencies]\n# Why.\nserde.workspace = true\nurl = { workspace = true }\n";
        for (manifest, problems) in [
            (good.to_owned(), 0),
            (good.replace("[lints]", "[package]"), 1),
            (format!("{good}rand = \"0.9\"\n"), 1),
            (format!("{good}[target.'cfg(unix)'.dev-dependencies]\nrand = \"0.9\"\n"), 1),
        ] {
            let files = [("crates/pm/Cargo.toml".to_owned(), manifest.clone())].into();
            assert_eq!(untidy_manifests(std::slice::from_ref(&one), &files).len(), problems, "{manifest}");
        }
        assert_eq!(untidy_manifests(&[one], &BTreeMap::new()).len(), 1);
    }
}
