//! What stands in the sources: who mints permits, who meets the world outside, what holds secrets.

use std::collections::{BTreeMap, BTreeSet};

use crate::Crate;
use crate::adapter::has_extension;
use crate::code::{Keep, item_end, lines_with, only, without_tests};

/// Lines of code below which a crate is taken for empty.
const CODE_LINES_MIN: usize = 20;

/// The crates whose code is for tests, measurements or the house itself.
const FOR_TESTS: [&str; 4] = ["crates/conformance/", "crates/fake-ai/", "crates/tidy/", "benches/"];

/// How code reads the environment and the command line, or prints.
const CONTACTS: [&str; 16] = [
    "env::args",
    "env::args_os",
    "env::current_dir",
    "env::home_dir",
    "env::remove_var",
    "env::set_var",
    "env::var",
    "env::var_os",
    "env::vars",
    "env::vars_os",
    "print!",
    "println!",
    "eprint!",
    "eprintln!",
    "io::stdout",
    "io::stderr",
];

/// Types whose values are secret.
const SECRET_TYPES: [&str; 4] = ["SecretString", "SecretBox", "MasterKey", "Zeroizing"];

/// The code of a Rust file that is part of the product; `None` for tests and for other files.
fn product_code(path: &str, text: &str) -> Option<String> {
    let for_tests = path.split('/').any(|part| ["tests", "tests.rs", "examples"].contains(&part))
        || FOR_TESTS.iter().any(|folder| path.starts_with(folder));
    (has_extension(path, "rs") && !for_tests).then(|| without_tests(&only(text, Keep::Code)))
}

/// Places outside `authority` where a permit is made, tests aside.
pub fn minted_permits(files: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files {
        let may = path.starts_with("crates/authority/") || path == "crates/contract/src/permit.rs";
        let Some(code) = product_code(path, text).or_else(|| {
            // A measurement is no test: it asks for its permits like everyone.
            path.starts_with("benches/").then(|| without_tests(&only(text, Keep::Code)))
        }) else {
            continue;
        };
        if !may {
            for line in lines_with(&code, "::mint") {
                problems.push(format!("{path}, line {line}: only `authority` makes permits"));
            }
        }
    }
    problems
}

/// Places outside `steward` that read the environment or the command line, or print.
pub fn outside_contacts(files: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| !path.starts_with("crates/steward/")) {
        let Some(code) = product_code(path, text) else { continue };
        for contact in CONTACTS {
            for line in lines_with(&code, contact) {
                problems.push(format!("{path}, line {line}: `{contact}` belongs to the door"));
            }
        }
    }
    problems
}

/// Types that hold a secret and can be printed or serialised.
pub fn printable_secrets(files: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files {
        let Some(code) = product_code(path, text) else { continue };
        for (at, _) in code.match_indices("#[derive(") {
            let item = &code[at..item_end(code.as_bytes(), at)];
            let derived = item.split(']').next().unwrap_or_default();
            let prints = derived.split(|character: char| !character.is_alphanumeric());
            let printed: Vec<&str> = prints.filter(|name| ["Debug", "Serialize"].contains(name)).collect();
            let holds = SECRET_TYPES.iter().find(|name| !lines_with(item, name).is_empty());
            if let (Some(secret), false) = (holds, printed.is_empty()) {
                let line = code[..at].matches('\n').count() + 1;
                let printed = printed.join(" and ");
                problems.push(format!("{path}, line {line}: a type with a `{secret}` derives {printed}"));
            }
        }
    }
    problems
}

/// SQL files in our crates that no `include_str!` loads.
pub fn unloaded_sql(files: &BTreeMap<String, String>) -> Vec<String> {
    let mut loaded = BTreeSet::new();
    for (path, text) in files.iter().filter(|(path, _)| has_extension(path, "rs")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let code = only(text, Keep::Strings);
        for (at, mark) in code.match_indices("include_str!(") {
            let mut quotes = code[at + mark.len()..].splitn(3, '"');
            if let (Some(_), Some(name), Some(_)) = (quotes.next(), quotes.next(), quotes.next()) {
                loaded.insert(joined(folder, name));
            }
        }
    }
    let is_ours = |path: &str| has_extension(path, "sql") && !path.split('/').any(|part| part == "tests");
    files
        .keys()
        .filter(|path| is_ours(path) && !loaded.contains(*path))
        .map(|path| format!("`{path}` is loaded by no `include_str!`"))
        .collect()
}

fn joined(folder: &str, name: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in name.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Crates with hardly any code.
pub fn empty_crates(crates: &[Crate], files: &BTreeMap<String, String>) -> Vec<String> {
    let code_lines = |folder: &str| -> usize {
        files
            .iter()
            .filter(|(path, _)| path.starts_with(&format!("{folder}/src/")) && has_extension(path, "rs"))
            .map(|(_, text)| {
                let code = without_tests(&only(text, Keep::Code));
                code.lines().filter(|line| !line.trim().is_empty()).count()
            })
            .sum()
    };
    crates
        .iter()
        .filter(|one| code_lines(&one.folder) < CODE_LINES_MIN)
        .map(|one| format!("crate `{}` is empty: a crate begins with what it does", one.name))
        .collect()
}

/// Comments that put something off.
pub fn unfinished_work(files: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files {
        let comments = if has_extension(path, "rs") {
            only(text, Keep::Comments)
        } else if has_extension(path, "sql") || has_extension(path, "toml") {
            text.clone()
        } else {
            continue;
        };
        for mark in ["TODO", "FIXME", "XXX", "HACK"] {
            for line in lines_with(&comments, mark) {
                problems.push(format!("{path}, line {line}: do it or leave it, and say neither `{mark}`"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rule = fn(&BTreeMap<String, String>) -> Vec<String>;

    fn check(rule: Rule, cases: &[(&str, &str, usize)]) {
        for (path, text, problems) in cases {
            let files = [((*path).to_owned(), (*text).to_owned())].into();
            assert_eq!(rule(&files).len(), *problems, "{path}: {text}: {:?}", rule(&files));
        }
    }

    #[test]
    fn permits_are_minted_by_authority_and_in_tests() {
        let mint = "fn f() { Permit::mint(ctx); }";
        check(
            minted_permits,
            &[
                ("crates/authority/src/decide.rs", mint, 0),
                ("crates/contract/src/permit.rs", mint, 0),
                ("crates/conformance/src/store.rs", mint, 0),
                ("adapters/store-sqlite/tests/sqlite.rs", mint, 0),
                (
                    "crates/stores/src/index.rs",
                    "#[cfg(test)]\nmod tests { fn f() { Permit::mint(ctx); } }",
                    0,
                ),
                (
                    "crates/stores/src/index.rs",
                    "/// As [`Permit::mint`] says.\nfn f() { g(\"Permit::mint\") }",
                    0,
                ),
                ("crates/stores/src/index.rs", mint, 1),
                ("crates/stores/src/index.rs", "#[cfg(test)]\nmod tests {}\nfn f() { P::mint(ctx) }", 1),
                ("crates/contract/src/plan.rs", mint, 1),
                ("crates/steward/src/door.rs", "use contract::Permit as P; fn f() { let g = P::mint; }", 1),
                ("benches/src/door.rs", mint, 1),
            ],
        );
    }

    #[test]
    fn only_the_door_meets_the_world_outside() {
        check(
            outside_contacts,
            &[
                ("crates/steward/src/main.rs", "fn f() { println!(); std::env::args(); }", 0),
                ("crates/conformance/src/server.rs", "fn f() { std::env::var(x); }", 0),
                (
                    "crates/stores/src/index.rs",
                    "// println!\nfn f() { g(\"println!\", env!(\"A\"), stdout) }",
                    0,
                ),
                ("crates/stores/src/index.rs", "#[cfg(test)]\nmod tests { fn f() { println!(); } }", 0),
                ("crates/stores/tests/index.rs", "fn f() { println!(); }", 0),
                ("crates/stores/src/index.rs", "fn f() { println!(); }", 1),
                ("crates/stores/src/index.rs", "fn f() { eprintln!(); }", 1),
                ("crates/vault/src/key.rs", "use std::env;\nfn f() { env::var(x); }", 1),
                ("crates/vault/src/key.rs", "use std::env::var_os;", 1),
                ("adapters/store-x/src/lib.rs", "fn f() { std::io::stdout().write(x); }", 1),
            ],
        );
    }

    #[test]
    fn secrets_are_not_printable() {
        check(
            printable_secrets,
            &[
                ("crates/vault/src/a.rs", "pub struct A { b: SecretString }", 0),
                ("crates/vault/src/a.rs", "#[derive(Clone)]\npub struct A { b: SecretString }", 0),
                ("crates/vault/src/a.rs", "#[derive(Debug)]\nstruct A(u8);\nstruct B { b: SecretString }", 0),
                ("crates/vault/src/a.rs", "#[derive(Debug)]\nstruct A { b: MySecretStringLike }", 0),
                (
                    "crates/vault/src/a.rs",
                    "#[derive(Clone, Debug)]\npub struct A { b: Option<SecretString> }",
                    1,
                ),
                (
                    "crates/vault/src/a.rs",
                    "#[derive(Serialize)]\n#[serde(x)]\nenum A { B(SecretBox<[u8; 32]>) }",
                    1,
                ),
                ("crates/vault/src/a.rs", "#[derive(Debug)]\nstruct A(Zeroizing<Vec<u8>>);", 1),
            ],
        );
    }

    #[test]
    fn sql_files_are_loaded() {
        let files = |text: &str| -> BTreeMap<String, String> {
            [
                ("crates/stores/src/index/mod.rs".to_owned(), text.to_owned()),
                ("crates/stores/src/sql/unused.sql".to_owned(), String::new()),
                ("crates/stores/tests/data.sql".to_owned(), String::new()),
            ]
            .into()
        };
        for (text, problems) in [
            ("const A: &str = include_str!(\"../sql/unused.sql\");", 0),
            ("const A: &str = include_str!(\n    \"./../sql/unused.sql\"\n);", 0),
            ("const A: &str = include_str!(\"sql/unused.sql\");", 1),
            ("// include_str!(\"../sql/unused.sql\")", 1),
            ("", 1),
        ] {
            assert_eq!(unloaded_sql(&files(text)).len(), problems, "{text}");
        }
    }

    #[test]
    fn crates_without_code_are_told() {
        let one = Crate { name: "slo".into(), folder: "crates/slo".into(), dependencies: Vec::new() };
        for (text, problems) in [
            ("fn f() {\n".repeat(30), 0),
            ("//! Objectives.\n".repeat(30), 1),
            (format!("#[cfg(test)]\nmod tests {{ {} }}", "f();\n".repeat(30)), 1),
        ] {
            let files = [("crates/slo/src/lib.rs".to_owned(), text.clone())].into();
            assert_eq!(empty_crates(std::slice::from_ref(&one), &files).len(), problems, "{text}");
        }
    }

    #[test]
    fn put_off_work_is_told() {
        check(
            unfinished_work,
            &[
                ("crates/a/src/b.rs", "// TODO: later", 1),
                ("crates/a/src/b.rs", "/* FIXME */", 1),
                ("crates/a/src/c.sql", "-- XXX", 1),
                ("crates/a/src/b.rs", "const TODO: &str = \"TODO\"; // TODOS", 0),
                ("crates/a/README.md", "TODO", 0),
            ],
        );
    }
}
