//! Names that say nothing.

/// Words that a module can be called when nobody knows what it holds.
const VAGUE: [&str; 12] = [
    "util",
    "utils",
    "common",
    "helper",
    "helpers",
    "manager",
    "managers",
    "misc",
    "stuff",
    "commons",
    "utilities",
    "miscellaneous",
];

/// Files and folders with a vague word in their name.
pub fn vague_names<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let is_vague = |part: &str| {
        let stem = part.split('.').next().unwrap_or_default();
        stem.split(['_', '-']).any(|word| VAGUE.contains(&word.to_ascii_lowercase().as_str()))
    };
    paths
        .into_iter()
        .filter(|path| path.split('/').any(is_vague))
        .map(|path| format!("`{path}`: name it by the question that it answers"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vague_words_are_refused_in_any_part() {
        for path in [
            "crates/stores/src/utils.rs",
            "crates/stores/src/sql_helpers.rs",
            "crates/pm/tests/common/mod.rs",
            "crates/connection-manager/src/lib.rs",
            "crates/pm/src/Misc.rs",
        ] {
            assert_eq!(vague_names([path]).len(), 1, "{path}");
        }
        for path in
            ["crates/stores/src/index.rs", "crates/schema/src/utility_bill.rs", "crates/pm/src/task.rs"]
        {
            assert_eq!(vague_names([path]), Vec::<String>::new(), "{path}");
        }
    }
}
