//! Values that do not fit their column's kind, as text that says exactly what they are.

use contract::columnar::{Cell, from_hex, hex};
use serde_json::{Value, json};

/// Form and text.
pub(crate) fn write(cell: &Cell) -> Value {
    match cell {
        Cell::Null => json!(["null", ""]),
        Cell::Bool(value) => json!(["boolean", value.to_string()]),
        Cell::Int(value) => json!(["integer", value.to_string()]),
        // The bits follow, for what has no text of its own: the many NaN.
        Cell::Float(value) => json!(["float", value.to_string(), format!("{:016x}", value.to_bits())]),
        Cell::Decimal(value) => json!(["decimal", value.to_string()]),
        Cell::Text(value) => json!(["text", value]),
        Cell::Bytes(value) => json!(["bytes", hex(value)]),
        Cell::Raw(value) => json!(["text_not_utf8", hex(value)]),
    }
}

/// The value; `None` where this is none of ours.
pub(crate) fn read(value: &Value) -> Option<Cell> {
    let text = value[1].as_str()?;
    Some(match value[0].as_str()? {
        "null" => Cell::Null,
        "boolean" => Cell::Bool(text.parse().ok()?),
        "integer" => Cell::Int(text.parse().ok()?),
        "float" => Cell::Float(f64::from_bits(u64::from_str_radix(value[2].as_str()?, 16).ok()?)),
        "decimal" => Cell::Decimal(text.parse().ok()?),
        "text" => Cell::Text(text.to_owned()),
        "bytes" => Cell::Bytes(from_hex(text)?),
        "text_not_utf8" => Cell::Raw(from_hex(text)?),
        _ => return None,
    })
}
