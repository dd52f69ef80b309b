//! Names in a text: which store, query or migration is meant.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::intent::looks_like_sql;
use crate::task::{Item, Task};
use crate::words;

/// What the text says about one of several names.
#[derive(Debug, PartialEq)]
pub(crate) enum Mentioned {
    /// Exactly one, and how it was recognised.
    One(String, String),
    Several(Vec<String>),
    /// A store that does not exist is named as one.
    Unknown(String),
    None,
}

/// The known name equal to `name`, if need be whatever its case.
pub(crate) fn exact(known: &[String], name: &str) -> Option<String> {
    let name = name.trim().trim_matches('`');
    known
        .iter()
        .find(|known| *known == name)
        .or_else(|| known.iter().find(|known| known.to_lowercase() == name.to_lowercase()))
        .cloned()
}

/// Whether `name` stands in the text as a word of its own.
pub(crate) fn stands_in(text: &str, name: &str) -> bool {
    !places(text, name).is_empty()
}

/// Where `name` stands in the text as a word of its own, in bytes of the lower-case text.
fn places(text: &str, name: &str) -> Vec<usize> {
    let (text, name) = (text.to_lowercase(), name.to_lowercase());
    if name.is_empty() {
        return Vec::new();
    }
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(&name)
        .filter(|(at, _)| {
            let before = text[..*at].chars().next_back();
            let mut after = text[at + name.len()..].chars();
            let (next, next_but_one) = (after.next(), after.next());
            let hyphenated =
                |c: Option<char>, beyond: Option<char>| c == Some('-') && beyond.is_some_and(inside);
            !before.is_some_and(inside)
                && !next.is_some_and(inside)
                && !hyphenated(next, next_but_one)
                && !hyphenated(before, text[..at.saturating_sub(1)].chars().next_back())
        })
        .map(|(at, _)| at)
        .collect()
}

const STORE_WORDS: [&str; 4] = ["store", "database", "db", "stores"];

/// Which store the text means: one that is called a store wins over a bare mention, since a table may have its name.
pub(crate) fn mentioned(text: &str, stores: &[String]) -> Mentioned {
    if let Some(unknown) = unknown_store(text, stores) {
        return Mentioned::Unknown(unknown);
    }
    let plain: Vec<&String> = stores.iter().filter(|store| stands_in(text, store)).collect();
    let called: Vec<&&String> = plain
        .iter()
        .filter(|store| {
            let lower = text.to_lowercase();
            places(text, store).iter().any(|at| {
                let before = words::tokens(&lower[..*at]);
                let after = words::tokens(&lower[at + store.to_lowercase().len()..]);
                let is_store = |token: Option<&words::Token>| {
                    token.is_some_and(|t| STORE_WORDS.contains(&t.raw.as_str()))
                };
                is_store(before.last()) || is_store(after.first())
            })
        })
        .collect();
    let how = "a name in the text";
    match (called.as_slice(), plain.as_slice()) {
        ([one], _) => Mentioned::One((**one).clone(), how.into()),
        ([], [one]) => Mentioned::One((*one).clone(), how.into()),
        ([], []) => slip(text, stores),
        ([], several) => Mentioned::Several(several.iter().map(|store| (*store).clone()).collect()),
        (several, _) => Mentioned::Several(several.iter().map(|store| (**store).clone()).collect()),
    }
}

/// A store's name with a slip in it, if only one can be meant.
fn slip(text: &str, stores: &[String]) -> Mentioned {
    let tokens = words::tokens(text);
    let mut found: Vec<(&String, &str)> = Vec::new();
    for store in stores {
        let meant = store.to_lowercase();
        if let Some(token) = tokens.iter().find(|token| words::is_slip(&token.raw, &meant)) {
            found.push((store, &token.raw));
        }
    }
    match found.as_slice() {
        [(store, written)] => {
            Mentioned::One((*store).clone(), format!("`{written}` in the text, read as `{store}`"))
        }
        _ => Mentioned::None,
    }
}

/// A name in backticks that the text calls a store and that is none.
fn unknown_store(text: &str, stores: &[String]) -> Option<String> {
    let spans: Vec<&str> = text.split('`').collect();
    for (i, span) in spans.iter().enumerate().filter(|(i, _)| i % 2 == 1) {
        let is_name = !span.is_empty() && !span.contains(char::is_whitespace);
        let called = [
            spans.get(i - 1).map(|s| words::tokens(s).pop()),
            spans.get(i + 1).map(|s| words::tokens(s).into_iter().next()),
        ]
        .into_iter()
        .flatten()
        .flatten()
        .any(|token| STORE_WORDS.contains(&token.raw.as_str()));
        if is_name && called && exact(stores, span).is_none() {
            return Some((*span).to_owned());
        }
    }
    None
}

/// The task's queries by name: from its context, from fences and backticks, from a plain `SELECT … FROM …`.
pub(crate) fn queries(task: &Task) -> BTreeMap<String, String> {
    let mut named = BTreeMap::new();
    let mut unnamed: Vec<String> = Vec::new();
    for item in task.context.iter().chain(&task.task) {
        match item {
            Item::Pair { key, value }
                if key == "query"
                    || key == "queries"
                    || key.starts_with("query_")
                    || key.ends_with("_query") =>
            {
                collect(key, value, &mut named, &mut unnamed);
            }
            item => unnamed.extend(sql_in(&item.text())),
        }
    }
    for text in task.expected_results.iter().chain(task.sections.iter().map(|section| &section.text)) {
        unnamed.extend(sql_in(text));
    }
    if named.is_empty() && unnamed.is_empty() {
        unnamed.extend(
            task.assignment()
                .iter()
                .chain(&task.context.iter().map(Item::text).collect::<Vec<_>>())
                .filter_map(|text| bare_sql(text)),
        );
    }
    unnamed.retain(|sql| !named.values().any(|known| known == sql));
    unnamed.dedup();
    let alone = unnamed.len() == 1 && !named.contains_key("query");
    for (i, sql) in unnamed.into_iter().enumerate() {
        named.insert(if alone { "query".into() } else { format!("query_{}", i + 1) }, sql);
    }
    named
}

/// `query_fleet_history` and `fleet_history_query` are the query `fleet_history`.
fn query_name(key: &str) -> &str {
    let name = key.strip_prefix("query_").or_else(|| key.strip_suffix("_query")).unwrap_or(key);
    if name.is_empty() || name.chars().all(|c| c.is_ascii_digit()) { key } else { name }
}

fn collect(key: &str, value: &Value, named: &mut BTreeMap<String, String>, unnamed: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            let sql = sql_in(text)
                .into_iter()
                .next()
                .unwrap_or_else(|| text.trim().trim_end_matches(';').to_owned());
            if key == "queries" {
                unnamed.push(sql);
            } else {
                named.insert(query_name(key).to_owned(), sql);
            }
        }
        Value::Array(list) => {
            for entry in list {
                match (entry["name"].as_str(), entry["sql"].as_str().or_else(|| entry["query"].as_str())) {
                    (Some(name), Some(sql)) => {
                        named.insert(name.to_owned(), sql.trim().trim_end_matches(';').to_owned());
                    }
                    _ => collect("queries", entry, named, unnamed),
                }
            }
        }
        Value::Object(map) => {
            for (name, sql) in map {
                if let Some(sql) = sql.as_str() {
                    named.insert(name.clone(), sql.trim().trim_end_matches(';').to_owned());
                }
            }
        }
        _ => {}
    }
}

/// Queries in fences and backticks.
fn sql_in(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (i, part) in text.split("```").enumerate() {
        if i % 2 == 1 {
            let body = part
                .split_once('\n')
                .filter(|(head, _)| head.split_whitespace().count() <= 1)
                .map_or(part, |(_, body)| body);
            push_sql(body, &mut found);
        } else {
            part.split('`')
                .enumerate()
                .filter(|(j, _)| j % 2 == 1)
                .for_each(|(_, span)| push_sql(span, &mut found));
        }
    }
    found
}

fn push_sql(text: &str, found: &mut Vec<String>) {
    let sql = text.trim().trim_end_matches(';').trim_end();
    if looks_like_sql(sql) {
        found.push(sql.to_owned());
    }
}

/// A query written without marks, from `SELECT` to the end of the point.
fn bare_sql(text: &str) -> Option<String> {
    let sql = &text[text.find("SELECT ")?..];
    let sql = sql.split(';').next().unwrap_or(sql).trim().trim_end_matches(['.', '"', '\'']);
    sql.contains(" FROM ").then(|| sql.to_owned())
}

/// Migrations that the text names, such as `0003_add_status`, or by number after the word, such as `migration 0003`.
pub(crate) fn migrations(text: &str) -> Vec<String> {
    let tokens = words::tokens(text);
    let mut found = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let digits = token.raw.chars().take_while(char::is_ascii_digit).count();
        let named = words::is_migration_name(&token.raw);
        let numbered = digits >= 3
            && digits == token.raw.len()
            && i > 0
            && (tokens[i - 1].stem == words::stem("migration") || tokens[i - 1].raw == "to");
        if named || numbered {
            // As it was written, since names of files have a case.
            let at = text.to_lowercase().find(&token.raw);
            let written = at.and_then(|at| text.get(at..at + token.raw.len())).unwrap_or(&token.raw);
            found.push(written.to_owned());
        }
    }
    found
}

/// Whether the text speaks of migrations as such, so that "all that are pending" can be meant.
pub(crate) fn speaks_of_migrations(text: &str) -> bool {
    words::tokens(text).iter().any(|token| {
        token.stem == words::stem("migration")
            || token.raw == "pending"
            || words::is_slip(&token.raw, "migration")
            || words::is_slip(&token.raw, "migrations")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_recognised_by_name_and_by_what_they_are_called() {
        let stores: Vec<String> = ["orders", "shop", "orders-archive"].map(Into::into).into();
        for (text, expected) in [
            ("check the orders store and its table shop", "orders"),
            ("look at shop", "shop"),
            ("look at Orders-Archive", "orders-archive"),
            ("compare shop with orders", "several"),
            ("check the store `payments`", "unknown payments"),
            ("check the `payments` database", "unknown payments"),
            ("check the ordres database", "orders"),
            ("check everything", "none"),
            ("the bookshop is shopping", "none"),
        ] {
            let found = match mentioned(text, &stores) {
                Mentioned::One(store, _) => store,
                Mentioned::Several(_) => "several".into(),
                Mentioned::Unknown(name) => format!("unknown {name}"),
                Mentioned::None => "none".into(),
            };
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn queries_are_found_wherever_they_stand() {
        for (text, expected) in [
            ("- query: SELECT 1 FROM a\n", "query=SELECT 1 FROM a"),
            (
                "- queries:\n    one: SELECT 1 FROM a;\n    two: SELECT 2 FROM b\n",
                "one=SELECT 1 FROM a|two=SELECT 2 FROM b",
            ),
            (
                "- queries:\n    - SELECT 1 FROM a\n    - SELECT 2 FROM b\n",
                "query_1=SELECT 1 FROM a|query_2=SELECT 2 FROM b",
            ),
            ("- slow is `SELECT 1 FROM a`\n", "query=SELECT 1 FROM a"),
            ("- |\n  ```sql\n  SELECT 1\n  FROM a\n  ```\n", "query=SELECT 1\nFROM a"),
            ("- it is SELECT 1 FROM a.\n", "query=SELECT 1 FROM a"),
            ("- query_fleet_history: SELECT 1 FROM a\n", "fleet_history=SELECT 1 FROM a"),
            ("- please select a store from the list\n", ""),
        ] {
            let task = Task::parse("t.yaml", &format!("Task: look\nContext:\n{text}")).unwrap();
            let found: Vec<String> =
                queries(&task).iter().map(|(name, sql)| format!("{name}={sql}")).collect();
            assert_eq!(found.join("|"), expected, "{text}");
        }
    }

    #[test]
    fn migrations_are_recognised() {
        for (text, expected) in [
            ("apply 0003_Add_Status now", &["0003_Add_Status"][..]),
            ("apply migration 0003", &["0003"]),
            ("orders of 2024, 500 rows", &[]),
        ] {
            assert_eq!(migrations(text), expected, "{text}");
        }
    }
}
