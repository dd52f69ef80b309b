//! What goes into a statement and what comes out of one, the same for every backend.

use std::sync::Arc;

use contract::{Error, ErrorKind};
use jiff::Timestamp;

/// One value of a parameter or a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// A whole number; also booleans (0, 1) and times (microseconds since 1970 UTC).
    Integer(i64),
    /// A floating point number.
    Real(f64),
    /// Text.
    Text(String),
    /// Text that something else keeps too: it is not copied on its way into a statement.
    Shared(Arc<str>),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Integer(_) => "integer",
            Value::Real(_) => "real",
            Value::Text(_) | Value::Shared(_) => "text",
            Value::Blob(_) => "blob",
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Integer(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Value::Integer(i64::from(value))
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Value::Integer(i64::from(value))
    }
}

/// Numbers beyond `i64::MAX` become `i64::MAX`: no count or sequence of ours comes near.
impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Integer(i64::from(value))
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Real(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Text(value)
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        Value::Text(value.clone())
    }
}

impl From<&Arc<str>> for Value {
    fn from(value: &Arc<str>) -> Self {
        Value::Shared(Arc::clone(value))
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Value::Blob(value)
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Value::Blob(value.to_vec())
    }
}

/// Microseconds since 1970 UTC, for columns whose name ends in `_us`.
impl From<Timestamp> for Value {
    fn from(value: Timestamp) -> Self {
        Value::Integer(value.as_microsecond())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// One row of an answer; columns are asked for by name.
#[derive(Debug, Clone)]
pub struct Row {
    names: Arc<[String]>,
    values: Vec<Value>,
}

impl Row {
    pub(crate) fn new(names: Arc<[String]>, values: Vec<Value>) -> Self {
        Self { names, values }
    }

    /// The value of the column `name`.
    ///
    /// # Errors
    ///
    /// `Other`: the statement has no such column.
    pub fn get(&self, name: &str) -> Result<&Value, Error> {
        let index = self.names.iter().position(|known| known == name).ok_or_else(|| {
            Error::new(ErrorKind::Other, format!("the statement has no column `{name}`"))
                .with("columns", self.names.join(", "))
        })?;
        Ok(&self.values[index])
    }

    /// An integer column without nulls.
    ///
    /// # Errors
    ///
    /// `Other`: no such column. `Corrupt`: null or another type.
    pub fn get_i64(&self, name: &str) -> Result<i64, Error> {
        self.get_opt_i64(name)?.ok_or_else(|| wrong_type(name, "integer", "null"))
    }

    /// An integer column.
    ///
    /// # Errors
    ///
    /// `Other`: no such column. `Corrupt`: another type.
    pub fn get_opt_i64(&self, name: &str) -> Result<Option<i64>, Error> {
        match self.get(name)? {
            Value::Null => Ok(None),
            Value::Integer(value) => Ok(Some(*value)),
            other => Err(wrong_type(name, "integer", other.type_name())),
        }
    }

    /// A floating point column without nulls; integers are converted.
    ///
    /// # Errors
    ///
    /// `Other`: no such column. `Corrupt`: null or another type.
    pub fn get_f64(&self, name: &str) -> Result<f64, Error> {
        match self.get(name)? {
            Value::Real(value) => Ok(*value),
            #[expect(clippy::cast_precision_loss, reason = "whoever asks for a float accepts its precision")]
            Value::Integer(value) => Ok(*value as f64),
            other => Err(wrong_type(name, "real", other.type_name())),
        }
    }

    /// A text column without nulls.
    ///
    /// # Errors
    ///
    /// `Other`: no such column. `Corrupt`: null or another type.
    pub fn get_text(&self, name: &str) -> Result<&str, Error> {
        self.get_opt_text(name)?.ok_or_else(|| wrong_type(name, "text", "null"))
    }

    /// A text column.
    ///
    /// # Errors
    ///
    /// `Other`: no such column. `Corrupt`: another type.
    pub fn get_opt_text(&self, name: &str) -> Result<Option<&str>, Error> {
        match self.get(name)? {
            Value::Null => Ok(None),
            Value::Text(value) => Ok(Some(value)),
            Value::Shared(value) => Ok(Some(value)),
            other => Err(wrong_type(name, "text", other.type_name())),
        }
    }

    /// A column of bytes without nulls.
    ///
    /// # Errors
    ///
    /// `Other`: no such column. `Corrupt`: null or another type.
    pub fn get_blob(&self, name: &str) -> Result<&[u8], Error> {
        self.get_opt_blob(name)?.ok_or_else(|| wrong_type(name, "blob", "null"))
    }

    /// A column of bytes.
    ///
    /// # Errors
    ///
    /// `Other`: no such column. `Corrupt`: another type.
    pub fn get_opt_blob(&self, name: &str) -> Result<Option<&[u8]>, Error> {
        match self.get(name)? {
            Value::Null => Ok(None),
            Value::Blob(value) => Ok(Some(value)),
            other => Err(wrong_type(name, "blob", other.type_name())),
        }
    }

    /// A time column (microseconds since 1970 UTC) without nulls.
    ///
    /// # Errors
    ///
    /// `Other`: no such column. `Corrupt`: null, another type, or a time that does not exist.
    pub fn get_time(&self, name: &str) -> Result<Timestamp, Error> {
        self.get_opt_time(name)?.ok_or_else(|| wrong_type(name, "time", "null"))
    }

    /// A time column (microseconds since 1970 UTC).
    ///
    /// # Errors
    ///
    /// `Other`: no such column. `Corrupt`: another type, or a time that does not exist.
    pub fn get_opt_time(&self, name: &str) -> Result<Option<Timestamp>, Error> {
        self.get_opt_i64(name)?
            .map(|us| Timestamp::from_microsecond(us).map_err(|_| wrong_type(name, "time", "integer")))
            .transpose()
    }

    /// A text column that holds JSON.
    ///
    /// # Errors
    ///
    /// `Other`: no such column. `Corrupt`: null, another type, or not JSON of this shape.
    pub fn get_json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        serde_json::from_str(self.get_text(name)?).map_err(|cause| {
            Error::new(ErrorKind::Corrupt, format!("column `{name}` of the state file holds unexpected JSON"))
                .because(cause)
        })
    }
}

fn wrong_type(column: &str, expected: &str, found: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("column `{column}` of the state file has the wrong type"))
        .with("expected", expected)
        .with("found", found)
}
