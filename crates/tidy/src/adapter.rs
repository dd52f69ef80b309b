//! The files that every adapter has, so that who knows one knows all.

use std::collections::BTreeMap;

use crate::Crate;

/// What the folder of a family's adapter holds; the first fitting line counts. A path that ends with `/` stands for at
/// least one `.rs` file in it.
const SHAPES: [(&str, &[&str]); 6] = [
    // The reference store has no server: nothing to configure and no codes to translate.
    ("store-memory", &["Cargo.toml", "README.md", "src/lib.rs", "tests/"]),
    (
        "store-",
        &["Cargo.toml", "README.md", "src/lib.rs", "src/config.rs", "src/store.rs", "src/error.rs", "tests/"],
    ),
    // A provider of AI opens nothing: its settings come from the room.
    ("ai-", &["Cargo.toml", "README.md", "src/lib.rs", "src/provider.rs", "src/error.rs", "tests/"]),
    (
        "counters-",
        &[
            "Cargo.toml",
            "README.md",
            "src/lib.rs",
            "src/config.rs",
            "src/counters.rs",
            "src/error.rs",
            "tests/",
        ],
    ),
    // A format of files has nothing to configure.
    (
        "columnar-",
        &[
            "Cargo.toml",
            "README.md",
            "src/lib.rs",
            "src/reader.rs",
            "src/writer.rs",
            "src/error.rs",
            "tests/",
        ],
    ),
    (
        "repository-",
        &[
            "Cargo.toml",
            "README.md",
            "src/lib.rs",
            "src/config.rs",
            "src/repository.rs",
            "src/error.rs",
            "tests/",
        ],
    ),
];

/// Adapters without one of their family's files.
pub fn misshapen_adapters(crates: &[Crate], files: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    for one in crates.iter().filter(|one| one.folder.starts_with("adapters/")) {
        let Some((_, shape)) = SHAPES.iter().find(|(family, _)| one.name.starts_with(family)) else {
            problems.push(format!("no shape is known for `{}`: add its family to the table", one.folder));
            continue;
        };
        for part in *shape {
            let path = format!("{}/{part}", one.folder);
            let is_there = if part.ends_with('/') {
                files.keys().any(|file| file.starts_with(&path) && has_extension(file, "rs"))
            } else {
                files.get(&path).is_some_and(|text| !text.trim().is_empty())
            };
            if !is_there {
                problems.push(format!("`{path}` is missing or empty"));
            }
        }
    }
    problems
}

pub(crate) fn has_extension(path: &str, extension: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, found)| found == extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_empty_files_are_told() {
        let one = |name: &str| Crate {
            name: name.into(),
            folder: format!("adapters/{name}"),
            dependencies: Vec::new(),
        };
        let file = |path: &str| (format!("adapters/store-x/{path}"), "text".to_owned());
        let mut files: BTreeMap<String, String> = [
            "Cargo.toml",
            "README.md",
            "src/lib.rs",
            "src/config.rs",
            "src/store.rs",
            "src/error.rs",
            "tests/x.rs",
        ]
        .map(file)
        .into();
        assert_eq!(misshapen_adapters(&[one("store-x")], &files), Vec::<String>::new());
        files.remove("adapters/store-x/tests/x.rs");
        files.insert("adapters/store-x/README.md".into(), "\n".into());
        assert_eq!(
            misshapen_adapters(&[one("store-x")], &files),
            [
                "`adapters/store-x/README.md` is missing or empty",
                "`adapters/store-x/tests/` is missing or empty"
            ]
        );
        assert_eq!(misshapen_adapters(&[one("queue-x")], &files).len(), 1);
    }
}
