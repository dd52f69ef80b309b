//! What a project file says of a repository.

use std::path::{Path, PathBuf};

use contract::{Error, ErrorKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

/// A repository in restic's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The folder: a path relative to the project file, or `file:///absolute/path`. Two repositories are made in it,
    /// `stream` and `pages`, which differ in how data is cut into chunks.
    pub url: String,
    /// Name of the secret that holds the master key: 64 bytes in base64. Default: `repository/NAME`, which is made with
    /// the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret: Option<String>,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message).with("key", "url")
}

impl Config {
    /// A repository at `url` with the defaults.
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), key_secret: None }
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// `Invalid`: names the key in its context and says in the hint what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        if self.key_secret.as_ref().is_some_and(String::is_empty) {
            return Err(Error::new(ErrorKind::Invalid, "`key_secret` is empty")
                .with("key", "key_secret")
                .hint("name a secret of the vault, or remove the line"));
        }
        self.folder(Path::new("/")).map(|_| ())
    }

    /// Name of the secret with the master key of the repository `name`.
    pub fn key_secret(&self, name: &str) -> String {
        self.key_secret.clone().unwrap_or_else(|| format!("repository/{name}"))
    }

    /// The folder that holds both repositories.
    pub(crate) fn folder(&self, project_dir: &Path) -> Result<PathBuf, Error> {
        const SHAPE: &str = "write a path, or `file:///` and an absolute path";
        if self.url.is_empty() || self.url.contains('\0') {
            return Err(invalid("`url` is empty").hint(SHAPE));
        }
        // A path has no `://`; whoever has such a folder writes `./` before it.
        let Some((scheme, _)) = self.url.split_once("://") else {
            return Ok(project_dir.join(&self.url));
        };
        if scheme != "file" {
            return Err(invalid(format!(
                "`url` begins with `{scheme}:`, where no repository can be kept yet"
            ))
            .hint(SHAPE));
        }
        let url = Url::parse(&self.url).map_err(|error| {
            invalid(format!("`url` is not an address: {}", error.to_string().to_lowercase())).hint(SHAPE)
        })?;
        let extra = url.query().is_some() || url.fragment().is_some();
        match url.to_file_path() {
            Ok(path) if !extra && url.host_str().is_none_or(str::is_empty) && path.parent().is_some() => {
                Ok(path)
            }
            _ => Err(invalid("`url` names no folder of this machine").hint(SHAPE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_found() {
        for (url, folder) in [
            ("backups", "/srv/shop/backups"),
            ("./a:b", "/srv/shop/./a:b"),
            ("/mnt/backups", "/mnt/backups"),
            ("file:///mnt/my%20disk", "/mnt/my disk"),
        ] {
            let config = Config::new(url);
            config.validate().unwrap();
            assert_eq!(config.folder(Path::new("/srv/shop")).unwrap(), Path::new(folder), "{url}");
        }
    }

    #[test]
    fn wrong_urls_say_what_is_wrong() {
        for (url, message) in [
            ("", "`url` is empty"),
            ("s3://bucket/path", "`url` begins with `s3:`, where no repository can be kept yet"),
            ("file://otherhost/mnt", "`url` names no folder of this machine"),
            ("file:///mnt?x=1", "`url` names no folder of this machine"),
            ("file:///", "`url` names no folder of this machine"),
        ] {
            let error = Config::new(url).validate().expect_err(url);
            assert_eq!((error.kind(), error.message()), (ErrorKind::Invalid, message), "{url}");
            assert!(error.hint_text().is_some(), "{url}");
        }
        let config = Config { key_secret: Some(String::new()), ..Config::new("x") };
        assert_eq!(config.validate().unwrap_err().context(), [("key", "key_secret".to_owned())]);
    }

    #[test]
    fn the_secret_is_named_after_the_repository() {
        assert_eq!(Config::new("x").key_secret("nightly"), "repository/nightly");
        let config = Config { key_secret: Some("shop/key".into()), ..Config::new("x") };
        assert_eq!(config.key_secret("nightly"), "shop/key");
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error =
            serde_json::from_value::<Config>(serde_json::json!({"url": "x", "key": "y"})).unwrap_err();
        assert!(error.to_string().contains("unknown field `key`"), "{error}");
    }
}
