//! Committed files that a program prints, such as `docs/reference/*.md`.

use std::collections::BTreeMap;

/// Files by name that are committed with another text than is printed, are not committed, or are no longer printed.
/// `command` is what writes them anew.
pub fn stale_files(
    committed: &BTreeMap<String, String>,
    printed: &BTreeMap<String, String>,
    command: &str,
) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, text) in printed {
        match committed.get(name) {
            None => problems.push(format!("`{name}` is not committed: run `{command}`")),
            Some(found) if found != text => {
                problems.push(format!("`{name}` is out of date: run `{command}`"));
            }
            Some(_) => {}
        }
    }
    let left = committed.keys().filter(|name| !printed.contains_key(*name));
    problems.extend(left.map(|name| format!("`{name}` is no longer generated: remove it")));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_in_both_directions_are_told() {
        let files = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let printed = files(&[("a.md", "1"), ("b.md", "2"), ("c.md", "3")]);
        assert_eq!(stale_files(&printed, &printed, "x"), Vec::<String>::new());
        assert_eq!(
            stale_files(&files(&[("a.md", "1"), ("b.md", "old"), ("d.md", "4")]), &printed, "write-docs"),
            [
                "`b.md` is out of date: run `write-docs`",
                "`c.md` is not committed: run `write-docs`",
                "`d.md` is no longer generated: remove it",
            ]
        );
    }
}
