//! Embeddings: OpenAI's and Gemini's two forms.
//!
//! Source: OpenAI API reference "Embeddings"; Gemini API reference "Embeddings" (`embedContent`, `batchEmbedContents`).

use crate::convert::Converted;
use crate::error::error_in;
use crate::json::{self, Object, Value};
use crate::mark::BASE64;
use crate::neutral::{Notes, Shown, array, no_equivalent, object, required, required_text, text, whole};
use crate::usage;
use crate::{BadReply, BadRequest, Format};
use base64::Engine;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The forms in which embeddings are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Embedding {
    /// OpenAI, `/v1/embeddings`.
    OpenAi,
    /// Gemini, `:embedContent`.
    GeminiOne,
    /// Gemini, `:batchEmbedContents`.
    GeminiBatch,
}

impl Embedding {
    /// The format whose usage and errors its replies hold.
    pub const fn format(self) -> Format {
        match self {
            Self::OpenAi => Format::Chat,
            Self::GeminiOne | Self::GeminiBatch => Format::Gemini,
        }
    }
}

/// Whether an OpenAI client wants its numbers in base64, as OpenAI's own clients do unless told otherwise.
pub fn wants_base64(body: &[u8]) -> bool {
    json::parse(body).is_ok_and(|body| body.get("encoding_format").and_then(Value::as_str) == Some("base64"))
}

struct Texts<'a> {
    inputs: Vec<Cow<'a, str>>,
    dimensions: Option<u64>,
    notes: Notes,
}

/// Says a request for embeddings in another form. Ask Gemini in batches: one text is a batch too.
///
/// # Errors
///
/// The body is no valid request, holds tokens in place of text, or asks for several texts where one is possible.
pub fn convert_embedding_request(
    from: Embedding,
    to: Embedding,
    body: &[u8],
    model: &str,
) -> Result<Converted, BadRequest> {
    let Value::Object(mut request) = json::parse(body)? else {
        return Err(BadRequest::new("the body is not a JSON object"));
    };
    let mut read = Texts { inputs: Vec::new(), dimensions: None, notes: Notes::default() };
    match from {
        Embedding::OpenAi => read.openai(&mut request)?,
        Embedding::GeminiOne => {
            let path = String::new();
            read.gemini(request, &path)?;
        }
        Embedding::GeminiBatch => {
            for (index, one) in
                array(required(&mut request, "requests", "")?, "requests")?.into_iter().enumerate()
            {
                let path = format!("requests[{index}]");
                read.gemini(object(one, &path)?, &path)?;
            }
        }
    }
    let named = format!("models/{}", model.strip_prefix("models/").unwrap_or(model));
    let gemini = |text: Cow<'_, str>| {
        let parts = vec![Object::default().with("text", text.into_owned()).into()];
        let mut one = Object::default()
            .with("model", named.clone())
            .with("content", Object::default().with("parts", parts));
        one.put_some("outputDimensionality", read.dimensions);
        one
    };
    let body = match to {
        Embedding::OpenAi => {
            let input: Vec<Value<'_>> = read.inputs.into_iter().map(Value::from).collect();
            let mut body =
                Object::default().with("model", model).with("input", input).with("encoding_format", "float");
            body.put_some("dimensions", read.dimensions);
            body.into_bytes()
        }
        Embedding::GeminiOne => match read.inputs.len() {
            1 => gemini(read.inputs.remove(0)).into_bytes(),
            _ => return Err(no_equivalent("input")),
        },
        Embedding::GeminiBatch => {
            let requests: Vec<Value<'_>> = read.inputs.into_iter().map(|text| gemini(text).into()).collect();
            Object::default().with("requests", requests).into_bytes()
        }
    };
    Ok(Converted { body, dropped: read.notes.dropped, changed: read.notes.changed })
}

impl<'a> Texts<'a> {
    fn openai(&mut self, request: &mut Object<'a>) -> Result<(), BadRequest> {
        request.take("model");
        request.take("encoding_format");
        self.dimensions = request.take("dimensions").map(|value| whole(&value, "dimensions")).transpose()?;
        match required(request, "input", "")? {
            Value::String(text) => self.inputs.push(text),
            Value::Array(elements) => {
                for element in elements {
                    match element {
                        Value::String(text) => self.inputs.push(text),
                        // Tokens belong to OpenAI's tokenizers.
                        Value::Number(_) | Value::Array(_) => return Err(no_equivalent("input")),
                        _ => return Err(BadRequest::field("input", "must be a text or an array of texts")),
                    }
                }
            }
            _ => return Err(BadRequest::field("input", "must be a text or an array of texts")),
        }
        self.notes.drop_rest("", request);
        Ok(())
    }

    fn gemini(&mut self, mut request: Object<'a>, path: &str) -> Result<(), BadRequest> {
        request.take("model");
        let dimensions = request
            .take("outputDimensionality")
            .or_else(|| request.take("output_dimensionality"))
            .map(|value| whole(&value, "outputDimensionality"))
            .transpose()?;
        if !self.inputs.is_empty() && dimensions != self.dimensions {
            return Err(BadRequest::field("outputDimensionality", "must be the same for all texts"));
        }
        self.dimensions = dimensions;
        let mut content = match required(&mut request, "content", path)? {
            Value::String(text) => {
                Object::default().with("parts", vec![Object::default().with("text", text).into()])
            }
            content => object(content, "content")?,
        };
        let mut pieces = Vec::new();
        let parts = match required(&mut content, "parts", "content")? {
            one @ Value::Object(_) => vec![one],
            parts => array(parts, "content.parts")?,
        };
        for part in parts {
            pieces.push(required_text(&mut object(part, "content.parts")?, "text", "content.parts")?);
        }
        self.inputs.push(crate::chat::joined(pieces));
        self.notes.drop_rest(path, &request);
        Ok(())
    }
}

/// Says a reply with embeddings in another form. `base64` is what [`wants_base64`] says of the client's request.
///
/// # Errors
///
/// The body is no reply of its form or holds an error, or there are several embeddings where one is possible.
pub fn convert_embedding_reply(
    from: Embedding,
    to: Embedding,
    body: &[u8],
    shown: &Shown<'_>,
    base64: bool,
) -> Result<Vec<u8>, BadReply> {
    let value = json::parse(body)?;
    if let Some(error) = error_in(from.format(), &value, None) {
        return Err(error.into());
    }
    let Value::Object(mut reply) = value else { return Err(BadReply::new("the reply is not a JSON object")) };
    let (member, counts) = match from {
        Embedding::OpenAi => ("data", "usage"),
        Embedding::GeminiOne => ("embedding", "usageMetadata"),
        Embedding::GeminiBatch => ("embeddings", "usageMetadata"),
    };
    let usage = usage::in_value(from.format(), reply.get(counts));
    let missing = || BadReply::new(format!("the reply has no `{member}`"));
    let mut vectors = Vec::new();
    for one in match reply.take(member).ok_or_else(missing)? {
        Value::Array(elements) => elements,
        one @ Value::Object(_) => vec![one],
        _ => return Err(missing()),
    } {
        let Value::Object(mut one) = one else { return Err(missing()) };
        let index = one.get("index").and_then(Value::as_u64).unwrap_or(vectors.len() as u64);
        let numbers = one.take("embedding").or_else(|| one.take("values")).ok_or_else(missing)?;
        vectors.push((index, numbers_of(numbers)?));
    }
    // OpenAI numbers them; the order in the list is not promised.
    vectors.sort_by_key(|(index, _)| *index);
    let mut values: Vec<Value<'_>> = Vec::new();
    for (index, numbers) in vectors {
        values.push(match to {
            Embedding::OpenAi => Object::default()
                .with("object", "embedding")
                .with("index", index)
                .with("embedding", if base64 { packed(&numbers)?.into() } else { Value::Array(numbers) })
                .into(),
            Embedding::GeminiOne | Embedding::GeminiBatch => Object::default().with("values", numbers).into(),
        });
    }
    let body = match to {
        Embedding::OpenAi => {
            let counts = usage.map_or(Value::Null, |usage| {
                Object::default()
                    .with("prompt_tokens", usage.prompt())
                    .with("total_tokens", usage.prompt())
                    .into()
            });
            Object::default()
                .with("object", "list")
                .with("data", values)
                .with("model", shown.model)
                .with("usage", counts)
        }
        Embedding::GeminiOne if values.len() == 1 => Object::default().with("embedding", values.remove(0)),
        Embedding::GeminiOne => {
            return Err(BadReply::new("the reply holds several embeddings in place of one"));
        }
        Embedding::GeminiBatch => Object::default().with("embeddings", values),
    };
    Ok(body.into_bytes())
}

/// Numbers as written, or out of base64.
fn numbers_of(value: Value<'_>) -> Result<Vec<Value<'_>>, BadReply> {
    let wrong = || BadReply::new("an embedding is neither an array of numbers nor base64");
    match value {
        Value::Array(numbers) if numbers.iter().all(|number| matches!(number, Value::Number(_))) => {
            Ok(numbers)
        }
        packed @ Value::String(_) => {
            let packed = text(packed, "embedding").map_err(|_| wrong())?;
            let bytes = BASE64.decode(packed.as_bytes()).map_err(|_| wrong())?;
            if bytes.len() % 4 != 0 {
                return Err(wrong());
            }
            bytes
                .chunks_exact(4)
                .map(|four| {
                    let number = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                    number
                        .is_finite()
                        .then(|| Value::Number(Cow::Owned(number.to_string())))
                        .ok_or_else(wrong)
                })
                .collect()
        }
        _ => Err(wrong()),
    }
}

/// 32-bit numbers, least byte first, in base64.
fn packed(numbers: &[Value<'_>]) -> Result<String, BadReply> {
    let mut bytes = Vec::with_capacity(numbers.len() * 4);
    for number in numbers {
        let number: f32 = match number {
            Value::Number(text) => {
                text.parse().map_err(|_| BadReply::new("an embedding holds a bad number"))?
            }
            _ => return Err(BadReply::new("an embedding holds something that is no number")),
        };
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    Ok(BASE64.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Embedding::{GeminiBatch, GeminiOne, OpenAi};

    #[test]
    fn requests_are_said_in_the_other_form() {
        for (from, to, body, expected) in [
            (
                OpenAi,
                GeminiBatch,
                r#"{"model":"e","input":["a","b"],"dimensions":64,"encoding_format":"base64","user":"u"}"#,
                r#"{"requests":[{"model":"models/m","content":{"parts":[{"text":"a"}]},"outputDimensionality":64},{"model":"models/m","content":{"parts":[{"text":"b"}]},"outputDimensionality":64}]} [user]"#,
            ),
            (
                OpenAi,
                GeminiOne,
                r#"{"model":"e","input":"a"}"#,
                r#"{"model":"models/m","content":{"parts":[{"text":"a"}]}} []"#,
            ),
            (
                GeminiOne,
                OpenAi,
                r#"{"content":{"parts":[{"text":"a"}]},"taskType":"RETRIEVAL_QUERY","outputDimensionality":8}"#,
                r#"{"model":"m","input":["a"],"encoding_format":"float","dimensions":8} [taskType]"#,
            ),
            (
                GeminiBatch,
                OpenAi,
                r#"{"requests":[{"model":"models/x","content":{"parts":[{"text":"a"}]}},{"model":"models/x","content":{"parts":{"text":"b"}}}]}"#,
                r#"{"model":"m","input":["a","b"],"encoding_format":"float"} []"#,
            ),
        ] {
            let converted = convert_embedding_request(from, to, body.as_bytes(), "m").unwrap();
            let now =
                format!("{} [{}]", String::from_utf8(converted.body).unwrap(), converted.dropped.join(","));
            assert_eq!(now, expected, "{body}");
        }
        for (from, to, body, field) in [
            (OpenAi, GeminiBatch, r#"{"input":[[1,2]]}"#, "input"),
            (OpenAi, GeminiBatch, r#"{"input":[1,2]}"#, "input"),
            (OpenAi, GeminiBatch, "{}", "input"),
            (OpenAi, GeminiOne, r#"{"input":["a","b"]}"#, "input"),
            (GeminiOne, OpenAi, r#"{"content":{"parts":[{"inlineData":{}}]}}"#, "content.parts.text"),
        ] {
            let error = convert_embedding_request(from, to, body.as_bytes(), "m").unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{body}");
        }
    }

    #[test]
    fn replies_keep_their_numbers() {
        let shown = Shown { model: "e", ..Shown::default() };
        let say = |from, to, body: &str, base64| {
            convert_embedding_reply(from, to, body.as_bytes(), &shown, base64)
                .map(|body| String::from_utf8(body).unwrap())
        };
        let gemini = r#"{"embeddings":[{"values":[0.10,-1e-3]},{"values":[2,3]}],"usageMetadata":{"promptTokenCount":7}}"#;
        assert_eq!(
            say(GeminiBatch, OpenAi, gemini, false).unwrap(),
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.10,-1e-3]},{"object":"embedding","index":1,"embedding":[2,3]}],"model":"e","usage":{"prompt_tokens":7,"total_tokens":7}}"#
        );
        let packed = say(GeminiBatch, OpenAi, gemini, true).unwrap();
        assert_eq!(
            say(OpenAi, GeminiBatch, &packed, false).unwrap(),
            r#"{"embeddings":[{"values":[0.1,-0.001]},{"values":[2,3]}]}"#
        );
        let unordered = r#"{"data":[{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}]}"#;
        assert_eq!(
            say(OpenAi, GeminiBatch, unordered, false).unwrap(),
            r#"{"embeddings":[{"values":[1]},{"values":[2]}]}"#
        );
        assert_eq!(
            say(OpenAi, GeminiOne, r#"{"data":[{"embedding":[1]}]}"#, false).unwrap(),
            r#"{"embedding":{"values":[1]}}"#
        );
        assert!(say(OpenAi, GeminiOne, unordered, false).is_err());
        assert!(say(OpenAi, GeminiOne, r#"{"error":{"message":"m"}}"#, false).unwrap_err().error.is_some());
    }
}
