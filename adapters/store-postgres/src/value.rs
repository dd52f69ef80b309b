//! The server's text form of values as JSON.

use serde_json::{Number, Value};
use tokio_postgres::types::{Kind, Type};

/// Integers beyond this do not survive a reader that holds numbers as doubles.
const EXACT_MAX: u64 = 1 << 53;

/// A value as JSON: integers up to 2^53 and floats as numbers, `json` as it is, arrays as arrays, times as ISO 8601;
/// everything else (numeric, uuid, ranges, types of extensions …) as the server's text.
///
/// `text` is in the form that our session settings ask for: UTC, ISO dates, `\x` binary.
pub(crate) fn json(kind: &Type, text: &str) -> Value {
    let as_text = || Value::String(text.to_owned());
    match kind.kind() {
        Kind::Domain(base) => return json(base, text),
        Kind::Array(element) => {
            return Array { rest: text, element }.read().unwrap_or_else(as_text);
        }
        _ => {}
    }
    match *kind {
        Type::BOOL => Value::Bool(text == "t"),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => match text.parse::<i64>() {
            Ok(number) if number.unsigned_abs() <= EXACT_MAX => number.into(),
            _ => as_text(),
        },
        Type::FLOAT4 | Type::FLOAT8 => {
            text.parse().ok().and_then(Number::from_f64).map_or_else(as_text, Value::Number)
        }
        Type::JSON | Type::JSONB => serde_json::from_str(text).unwrap_or_else(|_| as_text()),
        Type::TIMESTAMP => Value::String(iso(text, "")),
        Type::TIMESTAMPTZ => Value::String(iso(text, "+00")),
        // int2vector and oidvector are arrays to the driver but plain lists in text; they stay text above.
        _ => as_text(),
    }
}

/// `2026-03-04 05:06:07.89+00` as `2026-03-04T05:06:07.89Z`; years BC and infinities stay as they are.
fn iso(text: &str, zone: &str) -> String {
    let Some((date, time)) = text.strip_suffix(zone).and_then(|text| text.split_once(' ')) else {
        return text.to_owned();
    };
    if time.contains(' ') {
        return text.to_owned();
    }
    format!("{date}T{time}{}", if zone.is_empty() { "" } else { "Z" })
}

/// Reads `{1,NULL,"a \"b\""}`.
struct Array<'a> {
    rest: &'a str,
    element: &'a Type,
}

impl Array<'_> {
    fn read(mut self) -> Option<Value> {
        let value = self.list()?;
        self.rest.is_empty().then_some(value)
    }

    fn list(&mut self) -> Option<Value> {
        // An array with bounds of its own, `[0:1]={…}`, does not begin like this and stays text.
        self.take('{')?;
        let mut items = Vec::new();
        if self.take('}').is_some() {
            return Some(Value::Array(items));
        }
        loop {
            items.push(self.item()?);
            if self.take('}').is_some() {
                return Some(Value::Array(items));
            }
            // Only `box` has another separator; it stays text.
            self.take(',')?;
        }
    }

    fn item(&mut self) -> Option<Value> {
        if self.rest.starts_with('{') {
            return self.list();
        }
        if self.take('"').is_none() {
            let end = self.rest.find([',', '}'])?;
            let (text, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Some(if text == "NULL" { Value::Null } else { json(self.element, text) });
        }
        let mut text = String::new();
        loop {
            let c = self.next()?;
            match c {
                '"' => return Some(json(self.element, &text)),
                '\\' => text.push(self.next()?),
                _ => text.push(c),
            }
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take(&mut self, c: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(c)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_become_json() {
        for (kind, text, expected) in [
            (Type::BOOL, "t", json!(true)),
            (Type::INT8, "9007199254740992", json!(9_007_199_254_740_992_i64)),
            (Type::INT8, "-9007199254740993", json!("-9007199254740993")),
            (Type::NUMERIC, "1.50", json!("1.50")),
            (Type::FLOAT4, "0.1", json!(0.1)),
            (Type::FLOAT8, "NaN", json!("NaN")),
            (Type::JSONB, r#"{"a": [1]}"#, json!({"a": [1]})),
            (Type::TIMESTAMPTZ, "2026-03-04 05:06:07.89+00", json!("2026-03-04T05:06:07.89Z")),
            (Type::TIMESTAMP, "2026-03-04 05:06:07", json!("2026-03-04T05:06:07")),
            (Type::TIMESTAMPTZ, "infinity", json!("infinity")),
            (Type::TIMESTAMP, "0044-03-15 00:00:00 BC", json!("0044-03-15 00:00:00 BC")),
            (Type::INT4_ARRAY, "{1,NULL,{2,3}}", json!([1, null, [2, 3]])),
            (Type::INT4_ARRAY, "{}", json!([])),
            (Type::TEXT_ARRAY, r#"{a,"b \"c\\",NULL,"NULL",""}"#, json!(["a", "b \"c\\", null, "NULL", ""])),
            (Type::INT4_ARRAY, "[0:1]={1,2}", json!("[0:1]={1,2}")),
            (Type::BYTEA, r"\x00ff", json!(r"\x00ff")),
            (Type::INT2_VECTOR, "1 2", json!("1 2")),
        ] {
            assert_eq!(json(&kind, text), expected, "{kind} {text}");
        }
    }
}
