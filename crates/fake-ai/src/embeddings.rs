//! OpenAI's embeddings: a vector that depends on the text alone.

use serde_json::{Value, json};

use crate::Exchange;

const DIMENSIONS: u64 = 8;

pub(crate) fn plain(exchange: &Exchange) -> Value {
    let request = exchange.json();
    let inputs: Vec<Value> = match &request["input"] {
        // A list of numbers is one input, as tokens.
        Value::Array(list) if list.first().is_some_and(Value::is_number) => vec![request["input"].clone()],
        Value::Array(list) => list.clone(),
        one => vec![one.clone()],
    };
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let values = vector(&input.to_string(), request["dimensions"].as_u64());
            let embedding = if request["encoding_format"] == "base64" {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                json!(base64(&bytes))
            } else {
                json!(values)
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let tokens = crate::answer::words_within(&request);
    json!({
        "object": "list", "data": data, "model": exchange.model(),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })
}

/// Numbers between -1 and 1 from a hash of the text.
pub(crate) fn vector(text: &str, dimensions: Option<u64>) -> Vec<f32> {
    let mut state = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (0..dimensions.unwrap_or(DIMENSIONS).min(4096))
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let small = u16::try_from(state >> 48).unwrap_or_default();
            f32::from(small) / 32768.0 - 1.0
        })
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for at in 0..4 {
            let letter = ALPHABET[(number >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(super::base64(bytes.as_bytes()), text);
        }
    }
}
