//! The answer for programs.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

use schema::Schema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// The answer for programs: a JSON value, or a schema that becomes one when somebody looks inside.
///
/// As a tree of values a schema of a thousand tables takes several times the memory, and longer to make and to drop than
/// the database takes to tell it. Whoever only passes it on, or writes it as JSON, never makes that tree; the JSON is the same.
#[derive(Debug, Clone, Default)]
pub struct Content {
    schema: Option<Box<Schema>>,
    value: OnceLock<Value>,
}

impl Content {
    /// The schema, as long as nobody has changed it as a value.
    pub fn schema(&self) -> Option<&Schema> {
        self.schema.as_deref()
    }

    /// The whole as a value.
    pub fn into_value(mut self) -> Value {
        std::mem::take(&mut *self)
    }
}

impl Deref for Content {
    type Target = Value;

    fn deref(&self) -> &Value {
        self.value.get_or_init(|| {
            self.schema.as_ref().map_or(Value::Null, |schema| {
                serde_json::to_value(schema).expect("a schema holds only JSON values")
            })
        })
    }
}

impl DerefMut for Content {
    fn deref_mut(&mut self) -> &mut Value {
        let _ = &**self;
        self.schema = None;
        self.value.get_mut().expect("it was made a line above")
    }
}

impl From<Value> for Content {
    fn from(value: Value) -> Self {
        Self { schema: None, value: value.into() }
    }
}

impl From<Schema> for Content {
    fn from(schema: Schema) -> Self {
        Self { schema: Some(Box::new(schema)), value: OnceLock::new() }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => f.write_str(&serde_json::to_string(schema).map_err(|_| fmt::Error)?),
            None => (**self).fmt(f),
        }
    }
}

impl PartialEq<Value> for Content {
    fn eq(&self, other: &Value) -> bool {
        **self == *other
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.schema {
            Some(schema) => schema.serialize(serializer),
            None => (**self).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        serde_json::from_value(json!({
            "dialect": "sqlite",
            "tables": [{ "namespace": "main", "name": "t", "rows": 3, "rows_estimated": false,
                         "columns": [{ "name": "id", "native_type": "", "nullable": true }] }],
        }))
        .unwrap()
    }

    #[test]
    fn schema_is_written_and_read_as_its_value_would_be() {
        let content = Content::from(schema());
        let tree = Content::from(json!(schema()));
        let written = |content: &Content| {
            let text = serde_json::to_string(content).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()
        };
        assert_eq!(written(&content), written(&tree));
        assert_eq!(content["tables"][0]["rows"], json!(3));
        assert!(content.schema().is_some(), "a look changes nothing");
        assert_eq!(content, json!(schema()));
        assert_eq!(content.into_value(), json!(schema()));
    }

    #[test]
    fn changed_value_is_what_counts() {
        let mut content = Content::from(schema());
        content["tables"] = json!([]);
        assert!(content.schema().is_none());
        assert_eq!(serde_json::to_value(&content).unwrap()["tables"], json!([]));
        assert_eq!(Content::default(), Value::Null);
    }
}
