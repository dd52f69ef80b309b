//! What the project file says of a SQLite store.

use contract::{Error, ErrorKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A SQLite database file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The database file, relative to the project's folder or absolute. It must exist; Steward never creates it.
    pub path: String,
    /// Never open the file for writing; plans for this store are refused. Default: false.
    #[serde(default)]
    pub read_only: bool,
    /// Longest wait for another connection's lock, in milliseconds. Default: 5000.
    #[serde(default = "default_lock_timeout_ms")]
    pub lock_timeout_ms: u64,
    /// Longest time that one step of a plan may take, in milliseconds. Default: 300000, five minutes.
    #[serde(default = "default_statement_timeout_ms")]
    pub statement_timeout_ms: u64,
    /// Tables of up to this many rows are counted by `inspect`; larger ones are estimated. Default: 250000.
    #[serde(default = "default_rows_counted_max")]
    pub rows_counted_max: u64,
}

fn default_lock_timeout_ms() -> u64 {
    5_000
}

fn default_statement_timeout_ms() -> u64 {
    300_000
}

fn default_rows_counted_max() -> u64 {
    250_000
}

impl Config {
    /// A configuration of defaults for this file.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            read_only: false,
            lock_timeout_ms: default_lock_timeout_ms(),
            statement_timeout_ms: default_statement_timeout_ms(),
            rows_counted_max: default_rows_counted_max(),
        }
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// `Invalid`, with the key in the context.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |key: &'static str, message: String, hint: &str| {
            Err(Error::new(ErrorKind::Invalid, message).with("key", key).hint(hint))
        };
        let path = self.path.as_str();
        if path.trim().is_empty() {
            return wrong("path", "`path` is empty".into(), "name the database file, such as `data/shop.db`");
        }
        if path.contains('\0') {
            return wrong("path", "`path` contains a NUL byte".into(), "file names cannot hold one");
        }
        if path == ":memory:" || path.starts_with("file:") || path.starts_with("sqlite:") {
            return wrong(
                "path",
                format!("`path` must name a file, but it is `{path}`"),
                "write the plain path, such as `data/shop.db`",
            );
        }
        for (key, value, least) in [
            ("lock_timeout_ms", self.lock_timeout_ms, 1),
            ("statement_timeout_ms", self.statement_timeout_ms, 1),
            ("rows_counted_max", self.rows_counted_max, 0),
        ] {
            const MOST: u64 = 30 * 24 * 3_600_000;
            if value < least || value > MOST {
                return wrong(
                    key,
                    format!("`{key}` is {value}, but must lie between {least} and {MOST}"),
                    "leave it out to get the default",
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_are_named() {
        let with = |change: fn(&mut Config)| {
            let mut config = Config::new("data/shop.db");
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        for (message, expected) in [
            (
                with(|config| config.path = " ".into()),
                "`path` is empty\n  key: path\nhint: name the database file, such as `data/shop.db`",
            ),
            (
                with(|config| config.path = "a\0b".into()),
                "`path` contains a NUL byte\n  key: path\nhint: file names cannot hold one",
            ),
            (
                with(|config| config.path = ":memory:".into()),
                "`path` must name a file, but it is `:memory:`\n  key: path\nhint: write the plain path, such as \
                 `data/shop.db`",
            ),
            (
                with(|config| config.path = "file:shop.db?mode=rwc".into()),
                "`path` must name a file, but it is `file:shop.db?mode=rwc`\n  key: path\nhint: write the plain \
                 path, such as `data/shop.db`",
            ),
            (
                with(|config| config.lock_timeout_ms = 0),
                "`lock_timeout_ms` is 0, but must lie between 1 and 2592000000\n  key: lock_timeout_ms\nhint: leave \
                 it out to get the default",
            ),
            (
                with(|config| config.statement_timeout_ms = 0),
                "`statement_timeout_ms` is 0, but must lie between 1 and 2592000000\n  key: statement_timeout_ms\n\
                 hint: leave it out to get the default",
            ),
        ] {
            assert_eq!(message, expected);
        }
        Config::new("data/shop.db").validate().unwrap();
    }

    #[test]
    fn unknown_keys_are_errors_and_defaults_are_filled_in() {
        let config: Config = serde_json::from_str(r#"{"path": "shop.db"}"#).unwrap();
        assert_eq!(config, Config::new("shop.db"));
        let error = serde_json::from_str::<Config>(r#"{"path": "shop.db", "pasword": "x"}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `pasword`"), "{error}");
    }
}
