//! What a request names of what the provider keeps: files, responses, conversations.

use crate::json::{self, Object, Value};

/// Something that the provider keeps, by its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// The member that names it: `file_id`, `file_ids`, `previous_response_id` or `conversation`.
    pub field: &'static str,
    /// The provider's id.
    pub id: String,
}

/// What a body names, each once; `None`: it is no JSON, or too deep to be looked through.
///
/// [`crate::input_tokens`] says beforehand whether there is anything.
pub fn names(body: &[u8]) -> Option<Vec<Named>> {
    let Ok(Value::Object(request)) = json::parse(body) else { return None };
    let mut found = Vec::new();
    for (name, value) in &request.0 {
        let field = match name.as_ref() {
            "previous_response_id" => "previous_response_id",
            "conversation" => "conversation",
            _ => continue,
        };
        // A conversation may stand in an object.
        let id = value.as_str().or_else(|| value.get("id").and_then(Value::as_str));
        found.extend(id.map(|id| Named { field, id: id.to_owned() }));
    }
    files(&request, &mut found);
    found.sort();
    found.dedup();
    Some(found)
}

fn files(object: &Object<'_>, found: &mut Vec<Named>) {
    for (name, value) in &object.0 {
        match (name.as_ref(), value) {
            ("file_id", Value::String(id)) => {
                found.push(Named { field: "file_id", id: id.clone().into_owned() });
            }
            ("file_ids", Value::Array(ids)) => {
                let ids = ids.iter().filter_map(Value::as_str);
                found.extend(ids.map(|id| Named { field: "file_ids", id: id.to_owned() }));
            }
            _ => files_within(value, found),
        }
    }
}

fn files_within(value: &Value<'_>, found: &mut Vec<Named>) {
    match value {
        Value::Object(object) => files(object, found),
        Value::Array(elements) => elements.iter().for_each(|element| files_within(element, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, input_tokens};

    #[test]
    fn each_name_is_found_wherever_it_stands() {
        for (format, body, expected) in [
            (Format::Chat, r#"{"messages":[{"content":"file_id"}]}"#, vec![]),
            (
                Format::Chat,
                r#"{"messages":[{"content":[{"type":"file","file":{"file_id":"f1"}}]},{"content":[{"file":{"file\u005fid":"f\u0031"}}]}]}"#,
                vec![("file_id", "f1")],
            ),
            (
                Format::Responses,
                r#"{"previous_response_id":"r1","conversation":{"id":"c1"},"input":[{"content":[{"type":"input_image","file_id":"f1"}]}],
                    "tools":[{"type":"code_interpreter","container":{"type":"auto","file_ids":["f2","f3"]}}]}"#,
                vec![
                    ("conversation", "c1"),
                    ("file_id", "f1"),
                    ("file_ids", "f2"),
                    ("file_ids", "f3"),
                    ("previous_response_id", "r1"),
                ],
            ),
            (
                Format::Responses,
                r#"{"conversation":"c1","previous_response_id":null}"#,
                vec![("conversation", "c1")],
            ),
            // Readers disagree on which of two counts.
            (
                Format::Responses,
                r#"{"previous_response_id":"r1","previous_response_id":"r2"}"#,
                vec![("previous_response_id", "r1"), ("previous_response_id", "r2")],
            ),
            (
                Format::Messages,
                r#"{"messages":[{"content":[{"type":"document","source":{"type":"file","file_id":"f1"}}]}]}"#,
                vec![("file_id", "f1")],
            ),
        ] {
            let found = names(body.as_bytes()).unwrap();
            let found: Vec<_> = found.iter().map(|named| (named.field, named.id.as_str())).collect();
            assert_eq!(found, expected, "{body}");
            assert_eq!(input_tokens(format, body.as_bytes()).has_names, !expected.is_empty(), "{body}");
        }
        assert_eq!(names(b"[]"), None);
    }
}
