//! How counts, sizes and rows are written for people.

pub(crate) use contract::quantity::{count, size, thousands};
use serde_json::Value;

/// Why `write!` to a `String` needs no error.
pub(crate) const TO_STRING: &str = "writing to a string does not fail";

/// Longest cell of a table, in characters; longer ones end in `…`.
const CELL_CHARS_MAX: usize = 80;

/// The power of ten that is not less, for what changes all the time.
pub(crate) fn magnitude(count: u64) -> u64 {
    if count == 0 { 0 } else { 10_u64.saturating_pow((count - 1).checked_ilog10().map_or(0, |log| log + 1)) }
}

/// The verb that follows a count.
pub(crate) fn are(n: u64) -> &'static str {
    if n == 1 { "is" } else { "are" }
}

/// Milliseconds with as many digits as matter: `0.041 ms`, `12.3 ms`, `1,204 ms`.
pub(crate) fn millis(ms: f64) -> String {
    if ms < 1.0 {
        format!("{ms:.3} ms")
    } else if ms < 100.0 {
        format!("{ms:.1} ms")
    } else {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Positive and rounded.
        let whole = ms.round() as u64;
        format!("{} ms", thousands(whole))
    }
}

/// A value as one cell: control characters escaped, so that data cannot play tricks with the terminal.
pub(crate) fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => return "NULL".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    plain(&text, CELL_CHARS_MAX)
}

/// Whether [`plain`] certainly leaves the text as it is.
pub(crate) fn is_plain(text: &str, chars_max: usize) -> bool {
    text.len() <= chars_max && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The text on one line of at most `chars_max` characters, control characters escaped.
pub(crate) fn plain(text: &str, chars_max: usize) -> String {
    if is_plain(text, chars_max) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len().min(chars_max));
    for (i, c) in text.chars().enumerate() {
        if i >= chars_max {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Aligned columns under their names; a column that holds only numbers is flush right. Ends without a line break.
pub(crate) fn table(columns: &[String], rows: &[Vec<Value>]) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    let heads: Vec<String> = columns.iter().map(|name| plain(name, CELL_CHARS_MAX)).collect();
    let chars = |text: &String| text.chars().count();
    let widths: Vec<usize> = (0..columns.len())
        .map(|i| cells.iter().map(|row| chars(&row[i])).chain([chars(&heads[i])]).max().unwrap_or(0))
        .collect();
    let right: Vec<bool> = (0..columns.len())
        .map(|i| {
            let mut values = rows.iter().map(|row| &row[i]).filter(|value| !value.is_null()).peekable();
            values.peek().is_some() && values.all(Value::is_number)
        })
        .collect();
    let line = |cells: &[String]| {
        let mut line = String::new();
        for (i, cell) in cells.iter().enumerate() {
            let pad = " ".repeat(widths[i] - chars(cell));
            let parts: [&str; 2] = if right[i] { [&pad, cell] } else { [cell, &pad] };
            line.push_str(if i > 0 { "  " } else { "" });
            line.extend(parts);
        }
        line.trim_end().to_owned()
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut lines = vec![line(&heads), rule.join("  ")];
    lines.extend(cells.iter().map(|row| line(row)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        for (n, text) in [(0, "0 rows"), (1, "1 row"), (999, "999 rows"), (1_234_567, "1,234,567 rows")] {
            assert_eq!(count(n, "row"), text);
        }
        for (n, at_most) in
            [(0, 0), (1, 1), (2, 10), (10, 10), (11, 100), (50_000, 100_000), (u64::MAX, u64::MAX)]
        {
            assert_eq!(magnitude(n), at_most);
        }
        assert_eq!(count(2, "index"), "2 indexes");
        assert_eq!(count(2, "query"), "2 queries");
        for (ms, text) in [(0.0412, "0.041 ms"), (12.34, "12.3 ms"), (1204.4, "1,204 ms")] {
            assert_eq!(millis(ms), text);
        }
    }

    #[test]
    fn tables_are_aligned_and_cannot_move_the_cursor() {
        let columns = ["id".to_owned(), "name".to_owned(), "price".to_owned()];
        let rows = [
            vec![json!(1), json!("tea\u{1b}[2J"), json!(2.5)],
            vec![json!(12), Value::Null, Value::Null],
            vec![json!(3), json!("é\n"), json!(10)],
        ];
        insta::assert_snapshot!(table(&columns, &rows), @r"
        id  name          price
        --  ------------  -----
         1  tea\u{1b}[2J    2.5
        12  NULL           NULL
         3  é\n              10
        ");
    }
}
