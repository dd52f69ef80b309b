//! Canonical JSON and the hash over it, so that equal things have equal digests in every process.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// JSON without white space and with the keys of every object in order of their UTF-8 bytes.
///
/// Numbers are printed as serde_json prints them. This is RFC 8785 but for floats and non-BMP key order; digests
/// are only ever compared with digests made here.
pub fn canonical_json(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write(&map[key], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// SHA-256 as 64 lower-case hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string does not fail");
        hex
    })
}

/// SHA-256 of a value as JSON, in hexadecimal. The JSON is hashed as it is written: a large one is never one text.
///
/// # Panics
///
/// When the value cannot be written as JSON, such as a map whose keys are no texts.
pub fn json_sha256_hex(value: &impl serde::Serialize) -> String {
    let mut hash = std::io::BufWriter::with_capacity(16 << 10, Hash(Sha256::new()));
    serde_json::to_writer(&mut hash, value).expect("the value is JSON, and hashing does not fail");
    let Ok(Hash(hash)) = hash.into_inner() else { unreachable!("hashing does not fail") };
    hex(&hash.finalize())
}

/// Takes what is written into a hash.
struct Hash(Sha256);

impl std::io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_orders_keys_and_drops_white_space() {
        let value: Value =
            serde_json::from_str(r#"{ "b": [1, {"z": null, "a": "é\n"}], "a": 1.5 }"#).unwrap();
        assert_eq!(canonical_json(&value), r#"{"a":1.5,"b":[1,{"a":"é\n","z":null}]}"#);
    }

    #[test]
    fn json_is_hashed_as_it_would_be_written() {
        for value in [Value::Null, Value::String("é".repeat(40_000)), serde_json::json!([1.5, {"b": "a\n"}])]
        {
            assert_eq!(json_sha256_hex(&value), sha256_hex(value.to_string().as_bytes()));
        }
    }
}
