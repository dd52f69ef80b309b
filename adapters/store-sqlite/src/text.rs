//! SQL as words: just enough to find what SQLite's catalog does not say, such as the text of a CHECK.
//!
//! Nothing here decides what may run; that is the engine's business.

/// What a word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword, bare identifier or number.
    Bare,
    /// An identifier in `"`, `` ` `` or `[ ]`.
    Quoted,
    /// A string in `'`.
    Text,
    /// One character of punctuation.
    Symbol,
}

/// A word with its place in the text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    pub(crate) start: usize,
}

impl Word<'_> {
    pub(crate) fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Whether this is the keyword, written in capitals here.
    pub(crate) fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Bare && self.text.eq_ignore_ascii_case(keyword)
    }

    pub(crate) fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == Kind::Symbol && self.text == symbol
    }

    /// The name that it stands for; SQLite takes strings as names too.
    pub(crate) fn name(&self) -> String {
        let inner = || self.text.get(1..self.text.len().saturating_sub(1)).unwrap_or_default();
        match (self.kind, self.text.as_bytes().first()) {
            (Kind::Quoted, Some(b'[')) => inner().to_owned(),
            (Kind::Quoted, Some(b'`')) => inner().replace("``", "`"),
            (Kind::Quoted, _) => inner().replace("\"\"", "\""),
            (Kind::Text, _) => inner().replace("''", "'"),
            _ => self.text.to_owned(),
        }
    }
}

/// The words of `sql`, without white space and comments. Never fails: an unfinished quote runs to the end.
pub(crate) fn words(sql: &str) -> Vec<Word<'_>> {
    let bytes = sql.as_bytes();
    let mut out = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let start = i;
        let kind = match bytes[i] {
            b if b.is_ascii_whitespace() => {
                i += 1;
                continue;
            }
            b'-' if bytes.get(i + 1) == Some(&b'-') => {
                i = sql[i..].find('\n').map_or(bytes.len(), |at| i + at + 1);
                continue;
            }
            b'/' if bytes.get(i + 1) == Some(&b'*') => {
                i = sql[i + 2..].find("*/").map_or(bytes.len(), |at| i + 2 + at + 2);
                continue;
            }
            quote @ (b'"' | b'`' | b'\'') => {
                i = end_of_quote(bytes, i, quote);
                if quote == b'\'' { Kind::Text } else { Kind::Quoted }
            }
            b'[' => {
                i = sql[i..].find(']').map_or(bytes.len(), |at| i + at + 1);
                Kind::Quoted
            }
            b if is_of_name(b) => {
                while i < bytes.len() && is_of_name(bytes[i]) {
                    i += 1;
                }
                Kind::Bare
            }
            _ => {
                i += 1;
                Kind::Symbol
            }
        };
        out.push(Word { kind, text: &sql[start..i], start });
    }
    out
}

fn is_of_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || !b.is_ascii()
}

fn end_of_quote(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut i = start + 1;
    while i < bytes.len() {
        if bytes[i] == quote {
            if bytes.get(i + 1) != Some(&quote) {
                return i + 1;
            }
            i += 1;
        }
        i += 1;
    }
    bytes.len()
}

/// How many statements `sql` holds, for texts without triggers; an empty one before or between counts.
pub(crate) fn statements(sql: &str) -> usize {
    let words = words(sql);
    let Some(last) = words.iter().rposition(|word| !word.is_symbol(";")) else { return 0 };
    1 + words[..last].iter().filter(|word| word.is_symbol(";")).count()
}

/// Index of the `)` that closes the `(` at `open`; the number of words when it is never closed.
pub(crate) fn closing(words: &[Word<'_>], open: usize) -> usize {
    let mut depth = 0usize;
    for (i, word) in words.iter().enumerate().skip(open) {
        if word.is_symbol("(") {
            depth += 1;
        } else if word.is_symbol(")") {
            depth -= 1;
            if depth == 0 {
                return i;
            }
        }
    }
    words.len()
}

/// Cuts at the commas that stand outside all parentheses.
fn split(words: &[Word<'_>]) -> Vec<std::ops::Range<usize>> {
    let (mut out, mut from, mut depth) = (Vec::new(), 0, 0usize);
    for (i, word) in words.iter().enumerate() {
        if word.is_symbol("(") {
            depth += 1;
        } else if word.is_symbol(")") {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && word.is_symbol(",") {
            out.push(from..i);
            from = i + 1;
        }
    }
    out.push(from..words.len());
    out.retain(|range| !range.is_empty());
    out
}

fn source<'a>(sql: &'a str, words: &[Word<'_>]) -> &'a str {
    match (words.first(), words.last()) {
        (Some(first), Some(last)) => &sql[first.start..last.end()],
        _ => "",
    }
}

/// What a `CREATE TABLE` says beyond the catalog's pragmas.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TableText {
    /// Name (may be empty) and expression.
    pub(crate) checks: Vec<(String, String)>,
    /// Name of the primary key; empty when it has none.
    pub(crate) primary_key: String,
    /// Name (may be empty) and columns.
    pub(crate) uniques: Vec<(String, Vec<String>)>,
    /// Name (may be empty), columns and `DEFERRABLE …` (may be empty).
    pub(crate) foreign_keys: Vec<(String, Vec<String>, String)>,
    /// Column and the expression with its storage.
    pub(crate) generated: Vec<(String, String)>,
    /// Column and collation.
    pub(crate) collations: Vec<(String, String)>,
    pub(crate) autoincrement: bool,
}

/// Reads a `CREATE TABLE` as SQLite keeps it.
pub(crate) fn table(sql: &str) -> TableText {
    let mut out = TableText::default();
    let words = words(sql);
    let Some(open) = words.iter().position(|word| word.is_symbol("(")) else { return out };
    let body = &words[open + 1..closing(&words, open)];
    for range in split(body) {
        item(sql, &body[range], &mut out);
    }
    out
}

/// One column or table constraint, and further constraints that follow without a comma, which SQLite accepts.
fn item(sql: &str, words: &[Word<'_>], out: &mut TableText) {
    let constraint = ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"];
    let column =
        if constraint.iter().any(|keyword| words[0].is(keyword)) { None } else { Some(words[0].name()) };
    let mut name = String::new();
    let mut referring: Vec<String> = column.iter().cloned().collect();
    let mut i = usize::from(column.is_some());
    let names = |open: usize| -> Vec<String> {
        let inner = &words[open + 1..closing(words, open)];
        split(inner).into_iter().map(|range| inner[range.start].name()).collect()
    };
    let opens = |i: usize| words.get(i).is_some_and(|word| word.is_symbol("("));
    while i < words.len() {
        let word = &words[i];
        if word.is("CONSTRAINT") {
            name = words.get(i + 1).map(Word::name).unwrap_or_default();
            i += 2;
        } else if word.is("CHECK") && opens(i + 1) {
            let end = closing(words, i + 1);
            out.checks.push((std::mem::take(&mut name), source(sql, &words[i + 2..end]).to_owned()));
            i = end + 1;
        } else if word.is("PRIMARY") {
            out.primary_key = std::mem::take(&mut name);
            i += 2;
        } else if word.is("UNIQUE") {
            let columns = if opens(i + 1) { names(i + 1) } else { column.iter().cloned().collect() };
            out.uniques.push((std::mem::take(&mut name), columns));
            i += 1;
        } else if word.is("FOREIGN") && opens(i + 2) {
            referring = names(i + 2);
            i = closing(words, i + 2) + 1;
        } else if word.is("REFERENCES") {
            let (deferrable, next) = deferrable(sql, words, i);
            let columns = if column.is_some() { column.iter().cloned().collect() } else { referring.clone() };
            out.foreign_keys.push((std::mem::take(&mut name), columns, deferrable));
            i = next;
        } else if word.is("AS") && opens(i + 1) {
            let end = closing(words, i + 1);
            let stored = words.get(end + 1).is_some_and(|word| word.is("STORED"));
            let storage = if stored { "STORED" } else { "VIRTUAL" };
            if let Some(column) = &column {
                let expression = source(sql, &words[i + 1..(end + 1).min(words.len())]);
                out.generated.push((column.clone(), format!("AS {expression} {storage}")));
            }
            i = end + 1;
        } else if word.is("COLLATE") {
            if let (Some(column), Some(collation)) = (&column, words.get(i + 1)) {
                out.collations.push((column.clone(), collation.name()));
            }
            name.clear();
            i += 2;
        } else if word.is("AUTOINCREMENT") {
            out.autoincrement = true;
            i += 1;
        } else if word.is("NOT") || word.is("NULL") || word.is("DEFAULT") {
            name.clear();
            i += 1;
        } else if word.is_symbol("(") {
            i = closing(words, i) + 1;
        } else {
            i += 1;
        }
    }
}

/// The deferral of the foreign key whose `REFERENCES` stands at `i`, and where to go on.
fn deferrable(sql: &str, words: &[Word<'_>], i: usize) -> (String, usize) {
    let mut at = i + 2;
    if words.get(at).is_some_and(|word| word.is_symbol("(")) {
        at = closing(words, at) + 1;
    }
    while let Some(word) = words.get(at) {
        if word.is("ON") {
            // ON DELETE CASCADE, ON UPDATE SET NULL, ON DELETE NO ACTION
            let two = words.get(at + 2).is_some_and(|word| word.is("SET") || word.is("NO"));
            at += if two { 4 } else { 3 };
        } else if word.is("MATCH") {
            at += 2;
        } else {
            break;
        }
    }
    let from = at;
    if words.get(at).is_some_and(|word| word.is("NOT"))
        && words.get(at + 1).is_some_and(|word| word.is("DEFERRABLE"))
    {
        at += 1;
    }
    if !words.get(at).is_some_and(|word| word.is("DEFERRABLE")) {
        return (String::new(), from);
    }
    at += 1;
    if words.get(at).is_some_and(|word| word.is("INITIALLY")) {
        at = (at + 2).min(words.len());
    }
    (source(sql, &words[from..at]).to_owned(), at)
}

/// Key columns or expressions and the predicate of a `CREATE INDEX`.
pub(crate) fn index(sql: &str) -> (Vec<String>, Option<String>) {
    let words = words(sql);
    // CREATE [UNIQUE] INDEX [IF NOT EXISTS] name ON table ( … )
    let Some(on) = words.iter().position(|word| word.is("ON")) else { return (Vec::new(), None) };
    let Some(open) = words.iter().skip(on).position(|word| word.is_symbol("(")).map(|at| on + at) else {
        return (Vec::new(), None);
    };
    let close = closing(&words, open);
    let inner = &words[open + 1..close];
    let columns = split(inner)
        .into_iter()
        .map(|range| {
            let mut item = &inner[range];
            while let Some((last, rest)) = item.split_last() {
                if !rest.is_empty() && (last.is("ASC") || last.is("DESC")) {
                    item = rest;
                } else {
                    break;
                }
            }
            source(sql, item).to_owned()
        })
        .collect();
    let predicate = words
        .get(close + 1)
        .filter(|word| word.is("WHERE"))
        .map(|_| source(sql, &words[close + 2..]).trim_end_matches(';').trim().to_owned());
    (columns, predicate)
}

/// The defining query of a `CREATE VIEW`, with its column list if it has one.
pub(crate) fn view(sql: &str) -> String {
    let words = words(sql);
    // CREATE [TEMP] VIEW [IF NOT EXISTS] [schema.]name [(columns)] AS select
    let Some(at) = words.iter().position(|word| word.is("VIEW")) else { return sql.to_owned() };
    let mut name = at + 1;
    if words.get(name).is_some_and(|word| word.is("IF")) {
        name += 3;
    }
    if words.get(name + 1).is_some_and(|word| word.is_symbol(".")) {
        name += 2;
    }
    match words.get(name + 1) {
        Some(word) if word.is("AS") => source(sql, &words[name + 2..]).to_owned(),
        Some(_) => source(sql, &words[name + 1..]).to_owned(),
        None => sql.to_owned(),
    }
}

/// The table that `alias` stands for, when exactly one of `tables` is followed by it in the statement.
pub(crate) fn table_of_alias(sql: &str, alias: &str, tables: &[String]) -> Option<String> {
    let words = words(sql);
    let mut found = None;
    for pair in 1..words.len() {
        if words[pair].kind == Kind::Symbol || !words[pair].name().eq_ignore_ascii_case(alias) {
            continue;
        }
        let before = if words[pair - 1].is("AS") { pair.checked_sub(2) } else { Some(pair - 1) };
        let Some(named) = before.map(|at| words[at].name()) else { continue };
        if let Some(table) = tables.iter().find(|table| table.eq_ignore_ascii_case(&named)) {
            if found.as_ref().is_some_and(|known| known != table) {
                return None;
            }
            found = Some(table.clone());
        }
    }
    found
}

/// The identifier in double quotes, whatever is in it.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The text as a literal, whatever is in it but NUL.
pub(crate) fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statements_are_counted() {
        for (sql, count) in [
            ("", 0),
            (" -- nothing", 0),
            (";;", 0),
            ("SELECT 1", 1),
            ("SELECT ';' ;", 1),
            ("SELECT 1; -- ; \n ;", 1),
            ("SELECT 1; SELECT 2", 2),
            ("; SELECT 1", 2),
            ("/* unfinished ; SELECT 1", 0),
            ("SELECT [a;b], `c;d`, \"e;f\"", 1),
        ] {
            assert_eq!(statements(sql), count, "{sql}");
        }
    }

    #[test]
    fn aliases_are_resolved_where_they_are_clear() {
        let tables = ["orders".to_owned(), "order lines".to_owned()];
        for (sql, alias, table) in [
            ("SELECT * FROM orders o", "o", Some("orders")),
            ("SELECT * FROM Orders AS O", "o", Some("orders")),
            ("SELECT * FROM \"order lines\" l, orders", "l", Some("order lines")),
            ("SELECT * FROM orders x WHERE id IN (SELECT 1 FROM \"order lines\" x)", "x", None),
            ("SELECT * FROM orders", "o", None),
        ] {
            assert_eq!(table_of_alias(sql, alias, &tables).as_deref(), table, "{sql}");
        }
    }

    proptest! {
        /// Damaged or hostile text in a schema must not stop us.
        #[test]
        fn any_text_can_be_read(sql in ".{0,200}") {
            let _ = (table(&sql), index(&sql), view(&sql), statements(&sql));
            let _ = (table(&format!("CREATE TABLE t ({sql}")), index(&format!("CREATE INDEX i ON t ({sql}")));
        }

        #[test]
        fn quoted_names_are_read_back(name in "[^\0]{1,30}") {
            let quoted = quote_identifier(&name);
            let words = words(&quoted);
            prop_assert_eq!(words.len(), 1);
            prop_assert_eq!(words[0].name(), name);
        }
    }
}
