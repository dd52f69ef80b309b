//! What a project file says of a folder.

use contract::{Error, ErrorKind};
use glob::Pattern;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A folder with everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The folder, relative to the project's.
    pub path: String,
    /// Paths from the folder that are not taken, with what is below them: `cache`, `**/*.tmp`. `*` stands for any part of a
    /// name, `**` for any folders. Default: none.
    #[serde(default)]
    pub exclude: Vec<String>,
}

impl Config {
    /// All of this folder.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), exclude: Vec::new() }
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
        if self.path.trim().is_empty() || self.path.contains('\0') {
            return wrong("path", "`path` is empty".into(), "name the folder, such as `data/documents`");
        }
        if let Some(pattern) =
            self.exclude.iter().find(|pattern| pattern.starts_with('/') || pattern.is_empty())
        {
            return wrong(
                "exclude",
                format!("`exclude` names `{pattern}`, which is no path from the folder"),
                "write it from the folder on, such as `cache` or `**/*.tmp`",
            );
        }
        self.patterns().map(|_| ())
    }

    pub(crate) fn patterns(&self) -> Result<Vec<Pattern>, Error> {
        let read = |text: &String| {
            Pattern::new(text.trim_end_matches('/')).map_err(|cause| {
                Error::new(ErrorKind::Invalid, format!("`exclude` names `{text}`, which is no pattern"))
                    .with("key", "exclude")
                    .because(cause)
                    .hint("`*` stands for any part of a name, `**` alone between two `/` for any folders")
            })
        };
        self.exclude.iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_are_named() {
        let with = |exclude: &str| Config { exclude: vec![exclude.into()], ..Config::new("data") };
        for (config, message) in [
            (Config::new(" "), "`path` is empty"),
            (Config::new("a\0b"), "`path` is empty"),
            (with("/tmp"), "`exclude` names `/tmp`, which is no path from the folder"),
            (with(""), "`exclude` names ``, which is no path from the folder"),
            (with("a**"), "`exclude` names `a**`, which is no pattern"),
        ] {
            let error = config.validate().unwrap_err();
            assert_eq!((error.kind(), error.message()), (ErrorKind::Invalid, message));
            assert!(error.hint_text().is_some(), "{error}");
        }
        with("**/*.tmp").validate().unwrap();
        let error = serde_json::from_str::<Config>(r#"{"path": "x", "excludes": []}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `excludes`"), "{error}");
    }
}
