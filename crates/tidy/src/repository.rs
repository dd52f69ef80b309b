//! The repository as data: our crates, all packages that are built for Linux, and our files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use serde_json::Value;

/// The platform whose packages the rules look at.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";
/// Folders with our crates.
const FOLDERS: [&str; 3] = ["crates", "adapters", "benches"];

/// What a dependency is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Part of the product.
    Normal,
    /// For tests.
    Dev,
    /// For a build script.
    Build,
}

/// A line in a crate's list of dependencies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The package's name.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
}

/// One of our own crates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its folder, such as `adapters/store-sqlite`.
    pub folder: String,
    /// What it lists, of any platform.
    pub dependencies: Vec<Dependency>,
}

/// A package from elsewhere that is part of the build on Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its SPDX expression, if it names one.
    pub license: Option<String>,
}

/// Everything the rules look at.
pub struct Repository {
    /// Our crates.
    pub crates: Vec<Crate>,
    /// The packages of others.
    pub packages: Vec<Package>,
    /// The text of every file in our crates' folders by its path from the root, with `/` between. Files that are
    /// not UTF-8 have an empty text.
    pub files: BTreeMap<String, String>,
}

impl Repository {
    /// Reads the repository at `root` with `cargo metadata`, without network.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or cargo fails, such as for a lock file that is not up to date.
    pub fn read(root: &Path, cargo: &Path) -> io::Result<Self> {
        let output = Command::new(cargo)
            .args(["metadata", "--offline", "--locked", "--format-version", "1"])
            .args(["--filter-platform", PLATFORM])
            .current_dir(root)
            .output()?;
        if !output.status.success() {
            // Cargo also wants the manifests of packages that are not built.
            let told = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("{told}hint: `cargo fetch --locked --target {PLATFORM}`")));
        }
        let metadata = serde_json::from_slice(&output.stdout)?;
        let mut files = BTreeMap::new();
        for folder in FOLDERS {
            read_files(root, folder, &mut files)?;
        }
        Ok(Self { crates: crates(&metadata), packages: packages(&metadata), files })
    }
}

fn read_files(root: &Path, folder: &str, files: &mut BTreeMap<String, String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        let path = format!("{folder}/{name}");
        if entry.file_type()?.is_dir() {
            read_files(root, &path, files)?;
        } else {
            files.insert(path, String::from_utf8(fs::read(entry.path())?).unwrap_or_default());
        }
    }
    Ok(())
}

/// Our crates in `cargo metadata`.
fn crates(metadata: &Value) -> Vec<Crate> {
    let members: BTreeSet<&str> = list(&metadata["workspace_members"]).filter_map(Value::as_str).collect();
    let root = text(&metadata["workspace_root"]);
    list(&metadata["packages"])
        .filter(|package| members.contains(text(&package["id"])))
        .map(|package| Crate {
            name: text(&package["name"]).to_owned(),
            folder: text(&package["manifest_path"])
                .trim_start_matches(root)
                .trim_start_matches('/')
                .trim_end_matches("/Cargo.toml")
                .to_owned(),
            dependencies: list(&package["dependencies"])
                .map(|dependency| Dependency {
                    name: text(&dependency["name"]).to_owned(),
                    kind: match dependency["kind"].as_str() {
                        Some("dev") => Kind::Dev,
                        Some("build") => Kind::Build,
                        _ => Kind::Normal,
                    },
                })
                .collect(),
        })
        .collect()
}

/// The packages of others that are really built.
///
/// Cargo's graph also has optional packages that only a weak feature (`ring?/alloc`) names; those are never built,
/// so an edge to an optional package counts only when an active feature demands it.
/// Source: The Cargo Book, "Features", "Dependency features".
fn packages(metadata: &Value) -> Vec<Package> {
    let by_id: BTreeMap<&str, &Value> =
        list(&metadata["packages"]).map(|package| (text(&package["id"]), package)).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).map(|node| (text(&node["id"]), node)).collect();
    let members: Vec<&str> = list(&metadata["workspace_members"]).filter_map(Value::as_str).collect();
    let mut waiting = members.clone();
    let mut seen: BTreeSet<&str> = waiting.iter().copied().collect();
    while let Some(id) = waiting.pop() {
        let (Some(package), Some(node)) = (by_id.get(id), nodes.get(id)) else { continue };
        for edge in list(&node["deps"]) {
            let to = text(&edge["pkg"]);
            let Some(target) = by_id.get(to) else { continue };
            if is_demanded(package, node, text(&target["name"])) && seen.insert(to) {
                waiting.push(to);
            }
        }
    }
    seen.into_iter()
        .filter(|id| !members.contains(id))
        .filter_map(|id| by_id.get(id))
        .map(|package| Package {
            name: text(&package["name"]).to_owned(),
            version: text(&package["version"]).to_owned(),
            license: package["license"].as_str().map(str::to_owned),
        })
        .collect()
}

fn is_demanded(package: &Value, node: &Value, dependency: &str) -> bool {
    let mut names = Vec::new();
    for listed in list(&package["dependencies"]).filter(|listed| listed["name"] == dependency) {
        if listed["optional"] == false {
            return true;
        }
        names.push(listed["rename"].as_str().unwrap_or(dependency));
    }
    list(&node["features"]).filter_map(Value::as_str).any(|feature| {
        names.contains(&feature)
            || list(&package["features"][feature]).filter_map(Value::as_str).any(|enabled| {
                let strong = enabled.split('/').next().unwrap_or_default();
                names.contains(&strong.trim_start_matches("dep:"))
            })
    })
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(features: &Value) -> Vec<String> {
        let optional = json!({"name": "ring", "optional": true});
        let metadata = json!({
            "workspace_members": ["ours"],
            "packages": [
                {"id": "ours", "name": "ours", "dependencies": [{"name": "webpki", "optional": false}]},
                {
                    "id": "webpki", "name": "webpki", "dependencies": [optional],
                    "features": {"alloc": ["ring?/alloc"], "fast": ["ring/fast"], "ring": ["dep:ring"], "std": ["alloc"]},
                },
                {"id": "ring", "name": "ring", "dependencies": []},
            ],
            "resolve": {"nodes": [
                {"id": "ours", "deps": [{"pkg": "webpki"}], "features": []},
                {"id": "webpki", "deps": [{"pkg": "ring"}], "features": features},
                {"id": "ring", "deps": [], "features": []},
            ]},
        });
        packages(&metadata).into_iter().map(|package| package.name).collect()
    }

    #[test]
    fn packages_named_by_weak_features_alone_are_not_built() {
        assert_eq!(names(&json!(["alloc", "std"])), ["webpki"]);
        assert_eq!(names(&json!(["alloc", "ring"])), ["ring", "webpki"]);
        assert_eq!(names(&json!(["fast"])), ["ring", "webpki"]);
    }

    #[test]
    fn crates_are_the_members_with_their_folders() {
        let metadata = json!({
            "workspace_members": ["a"], "workspace_root": "/src",
            "packages": [
                {"id": "a", "name": "store-a", "manifest_path": "/src/adapters/store-a/Cargo.toml", "dependencies": [
                    {"name": "contract", "kind": null}, {"name": "conformance", "kind": "dev"},
                ]},
                {"id": "b", "name": "serde", "manifest_path": "/elsewhere/Cargo.toml", "dependencies": []},
            ],
        });
        let dependency = |name: &str, kind| Dependency { name: name.into(), kind };
        assert_eq!(
            crates(&metadata),
            [Crate {
                name: "store-a".into(),
                folder: "adapters/store-a".into(),
                dependencies: vec![
                    dependency("contract", Kind::Normal),
                    dependency("conformance", Kind::Dev)
                ],
            }]
        );
    }
}
