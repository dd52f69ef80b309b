//! What `pg_dump` prints of definitions, taken apart so that two dumps can be compared.

use std::collections::BTreeMap;

use contract::Selection;

use super::contents::Table;

/// One thing with the statements that make it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// Such as `Name: orders; Type: TABLE; Schema: public; Owner: shop`.
    pub(crate) title: String,
    pub(crate) body: String,
}

impl Entry {
    fn field(&self, name: &str) -> &str {
        let from = self.title.find(name).map_or(self.title.len(), |at| at + name.len());
        let rest = &self.title[from..];
        // A name may hold anything; the next field's name ends it.
        let end = ["; Type: ", "; Schema: ", "; Owner: ", "; Tablespace: "]
            .iter()
            .filter_map(|next| rest.find(next))
            .min();
        &rest[..end.unwrap_or(rest.len())]
    }

    /// In words: `TABLE public.orders`.
    fn words(&self) -> String {
        let (kind, schema, name) = (self.field("; Type: "), self.field("; Schema: "), self.field("Name: "));
        if schema == "-" { format!("{kind} {name}") } else { format!("{kind} {schema}.{name}") }
    }
}

/// The entries of a dump in their order; what is set for the session alone is none.
pub(crate) fn entries(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "--" && lines.peek().is_some_and(|next| next.starts_with("-- Name: ")) {
            let title = lines.next().unwrap_or_default().trim_start_matches("-- ").to_owned();
            entries.push(Entry { title, body: String::new() });
            // The line of the comment that closes it.
            lines.next();
            continue;
        }
        let of_session = line.starts_with("SET default_tablespace = ")
            || line.starts_with("SET default_table_access_method = ")
            || line.starts_with("\\restrict ")
            || line.starts_with("\\unrestrict ")
            || line == "-- PostgreSQL database dump complete";
        if let Some(entry) = entries.last_mut()
            && !of_session
        {
            entry.body.push_str(line);
            entry.body.push('\n');
        }
    }
    for entry in &mut entries {
        // Empty lines and the rest of the closing comment.
        let kept = entry.body.trim_end_matches(['\n', '-']).len();
        entry.body.truncate(kept);
        let from = entry.body.len() - entry.body.trim_start_matches('\n').len();
        entry.body.drain(..from);
    }
    entries
}

/// Both texts as one that depends neither on the order of things nor on the program's version.
pub(crate) fn normalised(before: &[u8], after: &[u8]) -> String {
    let mut all = entries(&String::from_utf8_lossy(before));
    all.extend(entries(&String::from_utf8_lossy(after)));
    all.sort();
    let mut text = String::new();
    for Entry { title, body } in &all {
        for part in [title, "\n", body, "\n\n"] {
            text.push_str(part);
        }
    }
    text
}

/// What the one has and the other has not, in words.
pub(crate) fn differences(
    dumped: &[Entry],
    restored: &[Entry],
    selection: &Selection,
    selected: &[&Table],
) -> Vec<String> {
    let by_title = |entries: &[Entry]| {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for entry in entries {
            map.entry(entry.title.clone()).or_default().push(entry.body.clone());
        }
        for bodies in map.values_mut() {
            bodies.sort();
        }
        map
    };
    let (before, now) = (by_title(dumped), by_title(restored));
    let mut lines = Vec::new();
    for entry in dumped {
        let wanted = match selection {
            Selection::Whole => true,
            Selection::Schema(schema) => {
                entry.field("; Schema: ") == schema && of_tables(entry, selected, dumped)
            }
            Selection::Tables(_) => of_tables(entry, selected, dumped),
        };
        match now.get(&entry.title) {
            None if wanted => lines.push(format!("{}: missing", entry.words())),
            Some(bodies) if wanted && before.get(&entry.title) != Some(bodies) => {
                lines.push(format!("{}: another definition", entry.words()));
            }
            _ => {}
        }
    }
    for entry in restored {
        if !before.contains_key(&entry.title) {
            lines.push(format!("{}: was not in the backup", entry.words()));
        }
    }
    lines.sort();
    lines.dedup();
    lines
}

/// Whether the entry is one of the tables or belongs to one of them, and to no other.
fn of_tables(entry: &Entry, selected: &[&Table], all: &[Entry]) -> bool {
    let (schema, name) = (entry.field("; Schema: "), entry.field("Name: "));
    let quoted = |table: &str| {
        format!(
            "{}.{}",
            crate::statement::quote_identifier(schema),
            crate::statement::quote_identifier(table)
        )
    };
    let is_selected = |table: &str| {
        let plain = format!("{schema}.{table}");
        selected
            .iter()
            .any(|known| known.name == plain || known.name == quoted(table) || unquoted(&known.name) == plain)
    };
    match entry.field("; Type: ") {
        "TABLE" | "ROW SECURITY" => is_selected(name),
        "CONSTRAINT" | "CHECK CONSTRAINT" | "TRIGGER" | "POLICY" | "DEFAULT" => {
            name.match_indices(' ').any(|(at, _)| is_selected(&name[..at]))
        }
        "FK CONSTRAINT" => {
            name.match_indices(' ').any(|(at, _)| is_selected(&name[..at]))
                && all.iter().filter(|other| other.field("; Type: ") == "TABLE").all(|other| {
                    let refers = format!(
                        " REFERENCES {}.{}(",
                        crate::statement::quote_identifier(other.field("; Schema: ")),
                        crate::statement::quote_identifier(other.field("Name: "))
                    );
                    !entry.body.contains(&refers)
                        || selected.iter().any(|table| {
                            unquoted(&table.name)
                                == format!("{}.{}", other.field("; Schema: "), other.field("Name: "))
                        })
                })
        }
        "INDEX" => selected.iter().any(|table| {
            let plain = unquoted(&table.name);
            let Some((schema, table)) = plain.split_once('.') else { return false };
            let named = format!(
                "{}.{} USING ",
                crate::statement::quote_identifier(schema),
                crate::statement::quote_identifier(table)
            );
            entry.body.contains(&named)
        }),
        _ => false,
    }
}

/// `public."Order"` without quotes.
pub(crate) fn unquoted(name: &str) -> String {
    let mut out = String::new();
    let mut letters = name.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '"' {
            if letters.peek() == Some(&'"') {
                letters.next();
                out.push('"');
            }
        } else {
            out.push(letter);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict x\n\nSET statement_timeout = 0;\n\n\
        --\n-- Name: orders; Type: TABLE; Schema: public; Owner: shop\n--\n\nCREATE TABLE \"public\".\"orders\" (\n    \"a\" integer\n);\n\n\n\
        SET default_tablespace = '';\n\n--\n-- Name: f(); Type: FUNCTION; Schema: public; Owner: shop\n--\n\nCREATE FUNCTION f() AS $$\n-- a comment\nselect 1\n$$;\n\n\n\
        --\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict x\n\n";

    #[test]
    fn a_dump_is_taken_apart() {
        let entries = entries(TEXT);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].words(), "TABLE public.orders");
        assert_eq!(entries[0].body, "CREATE TABLE \"public\".\"orders\" (\n    \"a\" integer\n);");
        assert_eq!(entries[1].body, "CREATE FUNCTION f() AS $$\n-- a comment\nselect 1\n$$;");
    }

    #[test]
    fn differences_are_named_both_ways() {
        let before = entries(TEXT);
        let now = entries(&TEXT.replace("integer", "bigint").replace("f()", "g()"));
        assert_eq!(
            differences(&before, &now, &Selection::Whole, &[]),
            [
                "FUNCTION public.f(): missing",
                "FUNCTION public.g(): was not in the backup",
                "TABLE public.orders: another definition"
            ]
        );
        assert_eq!(differences(&before, &before, &Selection::Whole, &[]), Vec::<String>::new());
    }
}
