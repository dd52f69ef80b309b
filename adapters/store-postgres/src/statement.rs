//! What we must know of a statement's text, and the text we put into one.

use std::collections::BTreeMap;

use contract::{Error, ErrorKind};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use crate::scram;

/// The text from its first character that is neither white space nor comment.
fn beginning(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once(['\n', '\r']).map_or("", |(_, after)| after);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = after_block_comment(comment);
        } else {
            return rest;
        }
    }
}

/// The statement's first word in upper case; empty when it begins with something else, such as a parenthesis.
pub(crate) fn first_word(sql: &str) -> String {
    let word = beginning(sql).chars().take_while(|c| c.is_ascii_alphabetic() || *c == '_');
    word.collect::<String>().to_ascii_uppercase()
}

/// What comes after a block comment whose opening has been read; the server nests them.
fn after_block_comment(mut rest: &str) -> &str {
    let mut depth = 1;
    while depth > 0 {
        match (rest.find("/*"), rest.find("*/")) {
            (Some(open), Some(close)) if open < close => {
                depth += 1;
                rest = &rest[open + 2..];
            }
            (_, Some(close)) => {
                depth -= 1;
                rest = &rest[close + 2..];
            }
            _ => return "",
        }
    }
    rest
}

/// Refuses a text that holds no statement or cannot be sent.
pub(crate) fn check_text(sql: &str) -> Result<(), Error> {
    if sql.contains('\0') {
        return Err(Error::new(ErrorKind::Invalid, "the statement contains a NUL character"));
    }
    if matches!(beginning(sql).chars().next(), None | Some(';')) {
        return Err(Error::new(ErrorKind::Invalid, "there is no statement")
            .hint("give exactly one statement, such as `SELECT 1`"));
    }
    Ok(())
}

/// Whether the single statement begins, ends or marks a transaction.
pub(crate) fn controls_transaction(sql: &str) -> bool {
    matches!(
        first_word(sql).as_str(),
        "BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" | "SAVEPOINT" | "RELEASE"
    ) || (first_word(sql) == "PREPARE" && sql.to_ascii_uppercase().contains("TRANSACTION"))
}

/// Whether the single statement would make the connection carry rows.
pub(crate) fn copies_through_client(sql: &str) -> bool {
    let upper = sql.to_ascii_uppercase();
    first_word(sql) == "COPY" && (upper.contains("STDIN") || upper.contains("STDOUT"))
}

/// An identifier that can stand in a statement, whatever is in it.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The statement with `?` for every literal and without comments, so that it tells what is done and not to whom.
///
/// Also of a statement that the server cut off in the middle. Where it cannot be told where a literal ends, all that
/// follows is left out.
pub(crate) fn without_literals(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.find(['\n', '\r']).map_or("", |end| &comment[end..]);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = after_block_comment(comment);
        } else if c == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |end| end + 2);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if c == '\'' {
            let backslashes = out.ends_with(['e', 'E'])
                && !out[..out.len() - 1].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            out.push('?');
            let Some(after) = after_string(&rest[1..], backslashes) else {
                out.push('…');
                break;
            };
            rest = after;
        } else if c == '$'
            && let Some(tag) = dollar_tag(rest)
        {
            out.push('?');
            let body = &rest[tag.len()..];
            rest = body.find(tag).map_or("", |end| &body[end + tag.len()..]);
        } else if c == '$' && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            let end = rest[1..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |end| end + 1);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if c.is_ascii_digit() || c == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            let bytes = rest.as_bytes();
            let mut end = 1;
            while end < bytes.len() {
                let sign = matches!(bytes[end], b'+' | b'-')
                    && matches!(bytes[end - 1], b'e' | b'E')
                    && !rest.starts_with("0x");
                if !(bytes[end].is_ascii_alphanumeric() || matches!(bytes[end], b'.' | b'_') || sign) {
                    break;
                }
                end += 1;
            }
            out.push('?');
            rest = &rest[end..];
        } else if is_word(c) {
            let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// What comes after a literal whose opening quote has been read; `None` where its end cannot be told.
fn after_string(text: &str, backslashes: bool) -> Option<&str> {
    let mut chars = text.char_indices().peekable();
    let mut after_backslash = false;
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if backslashes => {
                chars.next();
            }
            '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => {
                chars.next();
            }
            // With `standard_conforming_strings` off this quote would not end it.
            '\'' if after_backslash => return None,
            '\'' => return Some(&text[at + 1..]),
            _ => {}
        }
        after_backslash = c == '\\' && !backslashes;
    }
    Some("")
}

/// The opening mark of a dollar-quoted text, such as `$$` or `$body$`.
fn dollar_tag(text: &str) -> Option<&str> {
    let end = text[1..].find('$')? + 1;
    let name = &text[1..end];
    let fits = name.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    fits.then(|| &text[..=end])
}

/// A text as a literal, whatever is in it but NUL.
pub(crate) fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    // A backslash means itself only where `standard_conforming_strings` is on; E'' means the same everywhere.
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// A bound value in the server's text form; `None` is NULL.
fn text_of(value: &Value) -> Result<Option<String>, Error> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(flag.to_string())),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::String(text) if text.contains('\0') => {
            Err(Error::new(ErrorKind::Invalid, "a value contains a NUL character"))
        }
        Value::String(text) => Ok(Some(text.clone())),
        Value::Array(_) | Value::Object(_) => Err(Error::new(
            ErrorKind::Invalid,
            "a value is a list or an object; give null, true, false, a number or a string",
        )),
    }
}

/// Checks that there are as many values as placeholders.
pub(crate) fn check_count(placeholders: usize, values: usize) -> Result<(), Error> {
    if placeholders == values {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("the statement has {placeholders} placeholders, but {values} values were given"),
    ))
}

/// The values as a list of literals of unknown type, to which the server gives the types of the placeholders.
pub(crate) fn literals(values: &[Value]) -> Result<String, Error> {
    let literals = values
        .iter()
        .map(|value| Ok(text_of(value)?.map_or_else(|| "NULL".to_owned(), |text| quote_literal(&text))));
    Ok(literals.collect::<Result<Vec<_>, Error>>()?.join(", "))
}

/// A value bound in text form to a placeholder of any type; the server converts it.
#[derive(Debug)]
pub(crate) struct TextValue(Option<String>);

impl TextValue {
    pub(crate) fn new(value: &Value) -> Result<Self, Error> {
        text_of(value).map(Self)
    }
}

impl ToSql for TextValue {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut tokio_postgres::types::private::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match &self.0 {
            None => Ok(IsNull::Yes),
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// The statement with each `{{name}}` replaced by its secret as a literal, after the word PASSWORD by its verifier;
/// and the texts that must not appear in any message.
pub(crate) fn with_secrets(
    sql: &str,
    secrets: &BTreeMap<String, SecretString>,
) -> Result<(SecretString, Vec<SecretString>), Error> {
    let mut out = String::with_capacity(sql.len());
    let mut hidden = Vec::new();
    let mut rest = sql;
    while let Some(start) = rest.find("{{") {
        let found = rest[start + 2..].split_once("}}").and_then(|(name, _)| Some((name, secrets.get(name)?)));
        let Some((name, secret)) = found else {
            out.push_str(&rest[..start + 2]);
            rest = &rest[start + 2..];
            continue;
        };
        out.push_str(&rest[..start]);
        let plain = secret.expose_secret();
        if plain.contains('\0') {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the secret for `{name}` contains a NUL character"),
            ));
        }
        let is_password = out
            .trim_end()
            .len()
            .checked_sub("PASSWORD".len())
            .and_then(|at| out.trim_end().get(at..))
            .is_some_and(|word| word.eq_ignore_ascii_case("PASSWORD"));
        let literal =
            if is_password { quote_literal(&scram::verifier(plain)?) } else { quote_literal(plain) };
        out.push_str(&literal);
        hidden.push(secret.clone());
        hidden.push(SecretString::from(literal[1..literal.len() - 1].to_owned()));
        rest = &rest[start + 4 + name.len()..];
    }
    out.push_str(rest);
    Ok((SecretString::from(out), hidden))
}

/// The error without these texts.
pub(crate) fn redact(error: Error, hidden: &[SecretString]) -> Error {
    let shows = |text: &str| {
        hidden
            .iter()
            .any(|secret| !secret.expose_secret().is_empty() && text.contains(secret.expose_secret()))
    };
    if !shows(&format!("{error}")) && !error.causes().iter().any(|cause| shows(cause)) {
        return error;
    }
    let mut out =
        Error::new(error.kind(), "the server refused a statement; its message shows a secret: [redacted]")
            .with_retry(error.retry());
    for (name, value) in error.context() {
        if !shows(value) {
            out = out.with(name, value);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn literals_are_left_out_of_statements() {
        for (sql, without) in [
            ("SELECT 1", "SELECT ?"),
            ("SELECT 'it''s', E'a\\'b', x FROM t1 WHERE a = $1", "SELECT ?, E?, x FROM t1 WHERE a = $1"),
            (
                "UPDATE t SET a = 1.5e-7, b = .5, c=-3 WHERE \"odd'5\" = 'x'",
                "UPDATE t SET a = ?, b = ?, c=-? WHERE \"odd'5\" = ?",
            ),
            ("DO $x$ secret $$ 5 $x$ LANGUAGE plpgsql", "DO ? LANGUAGE plpgsql"),
            ("SELECT $$secret", "SELECT ?"),
            ("SELECT /* anna */ a -- bob\nFROM t", "SELECT  a \nFROM t"),
            ("SELECT 'cut off in the mid", "SELECT ?"),
            ("SELECT 'a\\' , 'b' secret", "SELECT ?…"),
            ("SELECT 0xff, 1_000, a1b FROM t_2", "SELECT ?, ?, a1b FROM t_2"),
            ("SELECT type'5', 'ä€'", "SELECT type?, ?"),
        ] {
            assert_eq!(without_literals(sql), without, "{sql}");
        }
    }

    #[test]
    fn first_words_are_found_behind_comments() {
        for (sql, word) in [
            ("select 1", "SELECT"),
            ("  -- x\n/* a /* b */ ; */ CoMMit", "COMMIT"),
            (" ; delete", ""),
            ("", ""),
            ("-- only", ""),
            ("/* open", ""),
            ("(SELECT 1)", ""),
        ] {
            assert_eq!(first_word(sql), word, "{sql}");
        }
    }

    #[test]
    fn texts_without_a_statement_are_refused() {
        for sql in ["", " ", "-- only", "/* open", ";", "; SELECT 1", "SELECT '\0'"] {
            assert_eq!(check_text(sql).unwrap_err().kind(), ErrorKind::Invalid, "{sql:?}");
        }
        check_text("(SELECT 1) -- fine").unwrap();
    }

    #[test]
    fn transaction_control_is_seen() {
        for (sql, expected) in [
            ("COMMIT", true),
            ("/**/ end", true),
            ("PREPARE TRANSACTION 'x'", true),
            ("PREPARE x AS SELECT 1", false),
            ("UPDATE t SET a = 'COMMIT'", false),
        ] {
            assert_eq!(controls_transaction(sql), expected, "{sql}");
        }
    }

    #[test]
    fn secrets_are_replaced_once_and_passwords_by_a_verifier() {
        let secrets = BTreeMap::from([
            ("a".to_owned(), SecretString::from("it's {{b}} \\")),
            ("b".to_owned(), SecretString::from("hunter2")),
        ]);
        let (sql, hidden) = with_secrets("x {{a}} {{c}} {{", &secrets).unwrap();
        assert_eq!(sql.expose_secret(), r"x E'it''s {{b}} \\' {{c}} {{");
        assert_eq!(hidden.len(), 2);
        let (sql, _) = with_secrets("ALTER ROLE r password {{b}}", &secrets).unwrap();
        assert!(sql.expose_secret().starts_with("ALTER ROLE r password 'SCRAM-SHA-256$4096:"));
        assert!(!sql.expose_secret().contains("hunter2"));
    }

    #[test]
    fn messages_that_show_a_secret_are_replaced() {
        let hidden = [SecretString::from("hunter2")];
        let error =
            Error::new(ErrorKind::Invalid, "syntax error at or near \"hunter2\"").with("store", "orders");
        let text = redact(error, &hidden).to_string();
        assert!(!text.contains("hunter2") && text.contains("orders"), "{text}");
    }

    proptest! {
        #[test]
        fn quoted_identifiers_keep_their_name(name in "[^\0]{1,40}") {
            let quoted = quote_identifier(&name);
            let inner = &quoted[1..quoted.len() - 1];
            prop_assert!(!inner.replace("\"\"", "").contains('"'));
            prop_assert_eq!(inner.replace("\"\"", "\""), name);
        }

        #[test]
        fn quoted_literals_never_end_early(text in "[^\0]{0,40}") {
            let quoted = quote_literal(&text);
            let inner = quoted.trim_start_matches('E');
            let inner = &inner[1..inner.len() - 1];
            prop_assert!(!inner.replace("''", "").contains('\''));
            let plain = inner.replace("''", "'");
            prop_assert_eq!(if quoted.starts_with('E') { plain.replace("\\\\", "\\") } else { plain }, text);
        }
    }
}
