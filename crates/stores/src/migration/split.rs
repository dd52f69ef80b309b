//! Where one statement of a migration file ends and the next begins.

use schema::Dialect;

/// A part of a file that means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A statement without its semicolon and without comments before and after it.
    Statement { line: usize, start: usize, text: String },
    /// The words after `-- steward:`.
    Directive { line: usize, text: String },
}

/// Why a file cannot be split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SplitError {
    /// Where the thing that does not end begins, from 1.
    pub(crate) line: usize,
    /// What does not end.
    pub(crate) message: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Space,
    LineComment,
    BlockComment,
    Quoted,
    Word,
    Semicolon,
    Open,
    Close,
    Other,
}

#[derive(Debug, Clone, Copy)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
}

/// Cuts a file at the semicolons that end statements: not those in quotes, dollar quotes, comments, parentheses,
/// the body of a SQLite trigger or a `BEGIN ATOMIC` body.
///
/// Directives count only outside statements' quotes: `-- steward:` in a string is a string.
pub(crate) fn split(text: &str, dialect: Dialect) -> Result<Vec<Piece>, SplitError> {
    let mut pieces = Vec::new();
    let mut statement = Statement::default();
    let mut lines = Lines { at: 0, line: 1 };
    for token in tokens(text, dialect)? {
        let part = &text[token.start..token.end];
        match token.kind {
            Kind::Space | Kind::BlockComment => continue,
            Kind::LineComment => {
                if let Some(words) = part.trim_start_matches('-').trim().strip_prefix("steward:") {
                    // A directive ends the statement before it: a missing semicolon must not join two sections.
                    statement.finish(text, &mut lines, &mut pieces);
                    pieces.push(Piece::Directive {
                        line: lines.line_of(text, token.start),
                        text: words.split_whitespace().collect::<Vec<_>>().join(" "),
                    });
                }
                continue;
            }
            Kind::Semicolon if statement.depth == 0 => {
                statement.finish(text, &mut lines, &mut pieces);
                continue;
            }
            Kind::Word => statement.word(part, dialect),
            Kind::Open => statement.depth += 1,
            Kind::Close => statement.depth = statement.depth.saturating_sub(1),
            Kind::Semicolon | Kind::Quoted | Kind::Other => {}
        }
        statement.range = Some((statement.range.map_or(token.start, |(start, _)| start), token.end));
    }
    statement.finish(text, &mut lines, &mut pieces);
    Ok(pieces)
}

/// All words of a statement outside quotes and comments, in upper case.
pub(crate) fn words(statement: &str, dialect: Dialect) -> Vec<String> {
    tokens(statement, dialect)
        .unwrap_or_default()
        .into_iter()
        .filter(|token| token.kind == Kind::Word)
        .map(|token| statement[token.start..token.end].to_ascii_uppercase())
        .collect()
}

/// The statement that is being read.
#[derive(Default)]
struct Statement {
    range: Option<(usize, usize)>,
    depth: usize,
    head: Vec<String>,
    previous: String,
    in_body: bool,
}

impl Statement {
    fn word(&mut self, word: &str, dialect: Dialect) {
        let word = word.to_ascii_uppercase();
        let head: Vec<&str> = self.head.iter().map(String::as_str).collect();
        let opens_body = match dialect {
            Dialect::Sqlite => {
                word == "BEGIN"
                    && matches!(
                        head.as_slice(),
                        ["CREATE", "TRIGGER", ..] | ["CREATE", "TEMP" | "TEMPORARY", "TRIGGER", ..]
                    )
            }
            Dialect::Postgres => {
                word == "ATOMIC"
                    && self.previous == "BEGIN"
                    && matches!(
                        head.as_slice(),
                        ["CREATE", "FUNCTION" | "PROCEDURE", ..]
                            | ["CREATE", "OR", "REPLACE", "FUNCTION" | "PROCEDURE", ..]
                    )
            }
        };
        if !self.in_body && opens_body {
            self.in_body = true;
            self.depth += 1;
        } else if self.in_body && word == "CASE" {
            self.depth += 1;
        } else if self.in_body && word == "END" {
            self.depth = self.depth.saturating_sub(1);
        }
        if self.head.len() < 4 {
            self.head.push(word.clone());
        }
        self.previous = word;
    }

    fn finish(&mut self, text: &str, lines: &mut Lines, pieces: &mut Vec<Piece>) {
        if let Some((start, end)) = std::mem::take(self).range {
            pieces.push(Piece::Statement {
                line: lines.line_of(text, start),
                start,
                text: text[start..end].to_owned(),
            });
        }
    }
}

/// Counts lines on the way through a text, so that a file of many statements is read once.
struct Lines {
    at: usize,
    line: usize,
}

impl Lines {
    /// The line at a place that lies behind all those asked for before.
    fn line_of(&mut self, text: &str, at: usize) -> usize {
        self.line += text[self.at..at].matches('\n').count();
        self.at = at;
        self.line
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || !c.is_ascii()
}

fn tokens(text: &str, dialect: Dialect) -> Result<Vec<Token>, SplitError> {
    let mut tokens = Vec::new();
    let mut start = 0;
    while let Some(c) = text[start..].chars().next() {
        let (kind, end) = token(text, start, c, dialect)?;
        tokens.push(Token { kind, start, end });
        start = end;
    }
    Ok(tokens)
}

fn token(text: &str, start: usize, c: char, dialect: Dialect) -> Result<(Kind, usize), SplitError> {
    let rest = &text[start..];
    let next = rest[c.len_utf8()..].chars().next();
    let postgres = dialect == Dialect::Postgres;
    let unfinished = |message| SplitError { line: line_of(text, start), message };
    let run = |accept: &dyn Fn(char) -> bool| start + rest.find(|c| !accept(c)).unwrap_or(rest.len());
    Ok(match c {
        ' ' | '\t' | '\n' | '\r' | '\u{c}' | '\u{feff}' => {
            (Kind::Space, run(&|c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}' | '\u{feff}')))
        }
        '-' if next == Some('-') => (Kind::LineComment, start + rest.find('\n').unwrap_or(rest.len())),
        '/' if next == Some('*') => {
            let end =
                block_comment_end(rest, postgres).ok_or_else(|| unfinished("a comment `/*` does not end"))?;
            (Kind::BlockComment, start + end)
        }
        '\'' => {
            let end = quoted_end(rest, 1, '\'', false).ok_or_else(|| unfinished("a string does not end"))?;
            (Kind::Quoted, start + end)
        }
        'e' | 'E' if postgres && next == Some('\'') => {
            let end = quoted_end(rest, 2, '\'', true).ok_or_else(|| unfinished("a string does not end"))?;
            (Kind::Quoted, start + end)
        }
        '"' => {
            let end =
                quoted_end(rest, 1, '"', false).ok_or_else(|| unfinished("a quoted name does not end"))?;
            (Kind::Quoted, start + end)
        }
        '`' if !postgres => {
            let end =
                quoted_end(rest, 1, '`', false).ok_or_else(|| unfinished("a quoted name does not end"))?;
            (Kind::Quoted, start + end)
        }
        '[' if !postgres => {
            let end = rest.find(']').ok_or_else(|| unfinished("a name in brackets does not end"))?;
            (Kind::Quoted, start + end + 1)
        }
        '$' if postgres => match dollar_tag(rest) {
            Some(tag) => {
                let body = &rest[tag.len()..];
                let end = body.find(tag).ok_or_else(|| unfinished("a dollar-quoted string does not end"))?;
                (Kind::Quoted, start + tag.len() + end + tag.len())
            }
            None => (Kind::Other, start + 1),
        },
        ';' => (Kind::Semicolon, start + 1),
        '(' => (Kind::Open, start + 1),
        ')' => (Kind::Close, start + 1),
        c if is_word(c) => (Kind::Word, run(&|c| is_word(c) || (postgres && c == '$'))),
        c => (Kind::Other, start + c.len_utf8()),
    })
}

/// The end of a string that begins before `from`; a doubled quote is part of it.
fn quoted_end(rest: &str, from: usize, quote: char, backslashes: bool) -> Option<usize> {
    let mut chars = rest[from..].char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if backslashes && c == '\\' {
            chars.next();
        } else if c == quote {
            if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
            } else {
                return Some(from + at + quote.len_utf8());
            }
        }
    }
    None
}

/// The end of a block comment; PostgreSQL nests them, SQLite does not and lets the file end one.
fn block_comment_end(rest: &str, nested: bool) -> Option<usize> {
    if !nested {
        return Some(rest[2..].find("*/").map_or(rest.len(), |end| end + 4));
    }
    let bytes = rest.as_bytes();
    let (mut depth, mut at) = (0, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
    None
}

/// `$$` or `$tag$` at the beginning.
fn dollar_tag(rest: &str) -> Option<&str> {
    let inner = &rest[1..];
    let end = inner.find('$')?;
    let tag = &inner[..end];
    let fits = tag.chars().all(is_word) && !tag.starts_with(|c: char| c.is_ascii_digit());
    fits.then(|| &rest[..end + 2])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statements(text: &str, dialect: Dialect) -> Vec<String> {
        split(text, dialect)
            .unwrap()
            .into_iter()
            .filter_map(|piece| match piece {
                Piece::Statement { text, .. } => Some(text),
                Piece::Directive { .. } => None,
            })
            .collect()
    }

    #[test]
    fn statements_end_where_the_engine_says() {
        use Dialect::{Postgres, Sqlite};
        for (dialect, text, expected) in [
            (Sqlite, "SELECT 1; SELECT 2", vec!["SELECT 1", "SELECT 2"]),
            (Sqlite, ";; SELECT 1 ;;", vec!["SELECT 1"]),
            (Sqlite, "SELECT ';', \"a;b\", `c;d`, [e;f];", vec!["SELECT ';', \"a;b\", `c;d`, [e;f]"]),
            (Sqlite, "SELECT 'it''s; fine'; SELECT 2", vec!["SELECT 'it''s; fine'", "SELECT 2"]),
            (Sqlite, "SELECT 1 -- ; no\n, 2; -- end", vec!["SELECT 1 -- ; no\n, 2"]),
            (Sqlite, "SELECT 1 /* ; /* */; SELECT 2", vec!["SELECT 1", "SELECT 2"]),
            (
                Sqlite,
                "CREATE TRIGGER t AFTER INSERT ON a WHEN CASE WHEN 1 THEN 1 END BEGIN UPDATE a SET x = CASE WHEN 1 THEN 2 END; \
                 DELETE FROM b; END; SELECT 1",
                vec![
                    "CREATE TRIGGER t AFTER INSERT ON a WHEN CASE WHEN 1 THEN 1 END BEGIN UPDATE a SET x = CASE WHEN 1 THEN 2 END; \
                     DELETE FROM b; END",
                    "SELECT 1",
                ],
            ),
            (Postgres, "SELECT 1 /* a /* ; */ ; */; SELECT 2", vec!["SELECT 1", "SELECT 2"]),
            (
                Postgres,
                r"SELECT E'a\';b'; SELECT 'a\'; SELECT 2",
                vec![r"SELECT E'a\';b'", r"SELECT 'a\'", "SELECT 2"],
            ),
            (
                Postgres,
                "CREATE FUNCTION f() RETURNS int AS $body$ BEGIN; RETURN $$;$$; END $body$ LANGUAGE plpgsql; SELECT $1",
                vec![
                    "CREATE FUNCTION f() RETURNS int AS $body$ BEGIN; RETURN $$;$$; END $body$ LANGUAGE plpgsql",
                    "SELECT $1",
                ],
            ),
            (Postgres, "SELECT a$b$c; SELECT d$b$e", vec!["SELECT a$b$c", "SELECT d$b$e"]),
            (
                Postgres,
                "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END; SELECT 2",
                vec![
                    "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END",
                    "SELECT 2",
                ],
            ),
            (
                Postgres,
                "CREATE RULE r AS ON DELETE TO t DO (SELECT 1; SELECT 2); SELECT 3",
                vec!["CREATE RULE r AS ON DELETE TO t DO (SELECT 1; SELECT 2)", "SELECT 3"],
            ),
            (Postgres, "SELECT 'ü;é'; SELECT \"日;本\"", vec!["SELECT 'ü;é'", "SELECT \"日;本\""]),
        ] {
            assert_eq!(statements(text, dialect), expected, "{text}");
        }
    }

    #[test]
    fn what_does_not_end_is_named_with_its_line() {
        for (dialect, text, line, message) in [
            (Dialect::Sqlite, "SELECT 1;\nSELECT 'a", 2, "a string does not end"),
            (Dialect::Postgres, "\n\n/* a", 3, "a comment `/*` does not end"),
            (Dialect::Postgres, "SELECT $a$ x $b$", 1, "a dollar-quoted string does not end"),
            (Dialect::Sqlite, "SELECT [a", 1, "a name in brackets does not end"),
        ] {
            assert_eq!(split(text, dialect), Err(SplitError { line, message }), "{text}");
        }
    }

    #[test]
    fn directives_count_only_outside_strings() {
        let text =
            "-- steward: up\nSELECT '\n-- steward: down\n';\n--  steward:  no-transaction \nSELECT 2\n";
        let directives: Vec<_> = split(text, Dialect::Sqlite)
            .unwrap()
            .into_iter()
            .filter_map(|piece| match piece {
                Piece::Directive { line, text } => Some((line, text)),
                Piece::Statement { .. } => None,
            })
            .collect();
        assert_eq!(directives, [(1, "up".to_owned()), (5, "no-transaction".to_owned())]);
    }

    /// Statements made of parts that are hard to read, none of which ends a statement.
    fn statement() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            "[a-z]{1,8}",
            "[0-9]{1,4}",
            "'[a-z;\\-/\\*\"\\$ ]{0,8}'",
            "\"[a-z;\\-/\\*' ]{0,8}\"",
            "'[a-z;]{0,3}''[a-z;]{0,3}'",
            Just("(a; b)".to_owned()),
            Just("/* ; ' \" */".to_owned()),
            Just("-- ; ' \"\n".to_owned()),
            Just("=".to_owned()),
            Just(",".to_owned()),
        ];
        ("[A-Z]{1,6}", prop::collection::vec(part, 0..8), "[a-z]{1,3}")
            .prop_map(|(head, parts, tail)| format!("{head} {} {tail}", parts.join(" ")))
    }

    proptest! {
        #[test]
        fn joined_statements_come_apart_again(list in prop::collection::vec(statement(), 0..6), postgres: bool) {
            let dialect = if postgres { Dialect::Postgres } else { Dialect::Sqlite };
            prop_assert_eq!(statements(&list.join(";\n"), dialect), list);
        }

        #[test]
        fn splitting_again_changes_nothing(text in "[a-zA-Z'\"$;()/*\\-\\[\\]` \n]{0,60}", postgres: bool) {
            let dialect = if postgres { Dialect::Postgres } else { Dialect::Sqlite };
            if let Ok(pieces) = split(&text, dialect) {
                for piece in pieces {
                    if let Piece::Statement { text: one, .. } = piece {
                        prop_assert!(text.contains(&one));
                    }
                }
            }
        }
    }
}
