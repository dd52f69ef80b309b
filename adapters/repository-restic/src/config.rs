//! What a project file says of a repository.

use std::path::{Path, PathBuf};

use contract::{Error, ErrorKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

/// A repository in restic's format.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The folder: a path relative to the project file, or `file:///absolute/path`; or a bucket: `s3://BUCKET/PREFIX`. Two
    /// repositories are made in it, `stream` and `pages`, which differ in how data is cut into chunks.
    pub url: String,
    /// Name of the secret that holds the master key: 64 bytes in base64. Default: `repository/NAME`, which is made with
    /// the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret: Option<String>,
    /// Of a bucket: where the server is, such as `https://s3.example.net`. Default: Amazon's in the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Of a bucket: its region. Default: `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Of a bucket: name of the secret that holds `ACCESS_KEY:SECRET_KEY`, and the session token behind another `:` if there
    /// is one. These may write, and delete nothing but their own locks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// Of a bucket: name of the secret with the credentials that delete what retention no longer keeps. Without them nothing
    /// is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune_credentials: Option<String>,
    /// Of a bucket: whether its name is in the path of the URL instead of its host. Default: true where `endpoint` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Of a bucket: a file with certificates in PEM that are trusted besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<PathBuf>,
    /// Of a bucket: longest time without an answer, in seconds; large objects may take longer. Default: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
    /// Of a bucket: how often a request is tried that the server cannot answer just now. Default: 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// Of a bucket: most bytes that are uploaded per second. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_bytes_per_second: Option<u64>,
    /// Of a bucket with object lock: how what is written is kept from being changed. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<ObjectLock>,
}

/// A bucket for archives of rows; its keys mean what they mean for a repository in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BucketConfig {
    /// `s3://BUCKET/PREFIX`. What is written there is not encrypted by us.
    pub url: String,
    /// Where the server is, such as `https://s3.example.net`. Default: Amazon's in the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Its region. Default: `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Name of the secret that holds `ACCESS_KEY:SECRET_KEY` of whoever writes and reads.
    pub credentials: String,
    /// Name of the secret with the credentials that take away what a run that was cut short has left. Default: those that write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune_credentials: Option<String>,
    /// Whether the bucket's name is in the path of the URL instead of its host. Default: true where `endpoint` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// A file with certificates in PEM that are trusted besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<PathBuf>,
    /// Longest time without an answer, in seconds; large objects may take longer. Default: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
    /// How often a request is tried that the server cannot answer just now. Default: 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// Most bytes that are uploaded per second. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_bytes_per_second: Option<u64>,
    /// Of a bucket with object lock: how long nobody can change or delete what is written. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<ObjectLock>,
}

impl BucketConfig {
    /// A bucket with the defaults.
    pub fn new(url: &str, credentials: &str) -> Self {
        Self {
            url: url.to_owned(),
            endpoint: None,
            region: None,
            credentials: credentials.to_owned(),
            prune_credentials: None,
            path_style: None,
            certificates: None,
            timeout_s: None,
            attempts_max: None,
            upload_bytes_per_second: None,
            object_lock: None,
        }
    }

    /// The same as a repository's would be.
    pub(crate) fn as_repository(&self) -> Config {
        Config {
            url: self.url.clone(),
            key_secret: None,
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            credentials: Some(self.credentials.clone()),
            prune_credentials: self.prune_credentials.clone(),
            path_style: self.path_style,
            certificates: self.certificates.clone(),
            timeout_s: self.timeout_s,
            attempts_max: self.attempts_max,
            upload_bytes_per_second: self.upload_bytes_per_second,
            object_lock: self.object_lock,
        }
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// `Invalid`: as [`Config::validate`]; and `url` is no bucket.
    pub fn validate(&self) -> Result<(), Error> {
        if !self.url.starts_with("s3://") {
            return Err(invalid("url", "`url` is no bucket")
                .hint("write `s3://BUCKET/PREFIX`; a folder stands in the rule itself: `to: FOLDER`"));
        }
        self.as_repository().validate()
    }
}

/// How the storage keeps what is written from being changed and deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectLock {
    /// `compliance`: nobody can delete it before its time; `governance`: nobody without a right of its own.
    pub mode: LockMode,
    /// For how long from when it was written, in days. What backups still need is locked again by a backup when half of that is over.
    pub days: u32,
}

/// Whom a lock holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// Everybody.
    Compliance,
    /// Everybody without the right to bypass it.
    Governance,
}

impl LockMode {
    pub(crate) fn as_s3(self) -> &'static str {
        match self {
            Self::Compliance => "COMPLIANCE",
            Self::Governance => "GOVERNANCE",
        }
    }
}

/// Most days that S3 locks an object for: a hundred years.
const LOCK_DAYS_MAX: u32 = 36_500;

/// Where a repository lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket, and what stands before the names of its objects.
    Bucket { bucket: String, prefix: String },
}

fn invalid(key: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message).with("key", key)
}

impl Config {
    /// A repository at `url` with the defaults.
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::default() }
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// `Invalid`: names the key in its context and says in the hint what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        for (key, secret) in [
            ("key_secret", &self.key_secret),
            ("credentials", &self.credentials),
            ("prune_credentials", &self.prune_credentials),
        ] {
            if secret.as_ref().is_some_and(String::is_empty) {
                return Err(invalid(key, format!("`{key}` is empty"))
                    .hint("name a secret of the vault, or remove the line"));
            }
        }
        if let Location::Folder(_) = self.location(Path::new("/"))? {
            return match self.of_a_bucket() {
                Some(key) => Err(invalid(key, format!("`{key}` is for buckets, and `url` is a folder"))
                    .hint("remove the line, or write `url: s3://BUCKET/PREFIX`")),
                None => Ok(()),
            };
        }
        if self.credentials.is_none() {
            return Err(invalid("credentials", "a bucket needs `credentials`").hint(
                "name a secret that holds ACCESS_KEY:SECRET_KEY, and store it: steward secret put NAME",
            ));
        }
        let region = self.region();
        if region.is_empty() || !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(invalid("region", "`region` is none").hint("write a name such as `eu-central-1`"));
        }
        self.endpoint()?;
        for (key, value) in [("timeout_s", self.timeout_s), ("attempts_max", self.attempts_max)] {
            if value == Some(0) {
                return Err(invalid(key, format!("`{key}` is 0")).hint("write 1 or more, or remove the line"));
            }
        }
        if self.upload_bytes_per_second.is_some_and(|bytes| bytes < 1024) {
            return Err(invalid("upload_bytes_per_second", "`upload_bytes_per_second` is below 1024")
                .hint("write the bytes per second, such as 20971520 for 20 MiB, or remove the line"));
        }
        if self.object_lock.is_some_and(|lock| !(1..=LOCK_DAYS_MAX).contains(&lock.days)) {
            return Err(invalid("object_lock.days", "`days` is not between 1 and 36500")
                .hint("write how long nobody may delete a backup, such as 30"));
        }
        Ok(())
    }

    /// The first key that is set and means nothing for a folder.
    fn of_a_bucket(&self) -> Option<&'static str> {
        [
            ("endpoint", self.endpoint.is_some()),
            ("region", self.region.is_some()),
            ("credentials", self.credentials.is_some()),
            ("prune_credentials", self.prune_credentials.is_some()),
            ("path_style", self.path_style.is_some()),
            ("certificates", self.certificates.is_some()),
            ("timeout_s", self.timeout_s.is_some()),
            ("attempts_max", self.attempts_max.is_some()),
            ("upload_bytes_per_second", self.upload_bytes_per_second.is_some()),
            ("object_lock", self.object_lock.is_some()),
        ]
        .into_iter()
        .find_map(|(key, is_set)| is_set.then_some(key))
    }

    /// Name of the secret with the master key of the repository `name`.
    pub fn key_secret(&self, name: &str) -> String {
        self.key_secret.clone().unwrap_or_else(|| format!("repository/{name}"))
    }

    pub(crate) fn region(&self) -> &str {
        self.region.as_deref().unwrap_or("us-east-1")
    }

    /// The server of a bucket.
    pub(crate) fn endpoint(&self) -> Result<Url, Error> {
        let text =
            self.endpoint.clone().unwrap_or_else(|| format!("https://s3.{}.amazonaws.com", self.region()));
        let wrong = || {
            invalid("endpoint", "`endpoint` is not the address of a server")
                .hint("write `https://` and the host, with a port if it has one and nothing behind it")
        };
        let url = Url::parse(&text).map_err(|_| wrong())?;
        let plain = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if plain { Ok(url) } else { Err(wrong()) }
    }

    /// The folder or bucket that holds both repositories.
    pub(crate) fn location(&self, project_dir: &Path) -> Result<Location, Error> {
        const SHAPE: &str = "write a path, `file:///` and an absolute path, or `s3://BUCKET/PREFIX`";
        if self.url.is_empty() || self.url.contains('\0') {
            return Err(invalid("url", "`url` is empty").hint(SHAPE));
        }
        // A path has no `://`; whoever has such a folder writes `./` before it.
        let Some((scheme, rest)) = self.url.split_once("://") else {
            return Ok(Location::Folder(project_dir.join(&self.url)));
        };
        if scheme == "s3" {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            return Self::bucket(bucket, prefix);
        }
        if scheme != "file" {
            return Err(invalid(
                "url",
                format!("`url` begins with `{scheme}:`, where no repository can be kept"),
            )
            .hint(SHAPE));
        }
        let url = Url::parse(&self.url).map_err(|error| {
            invalid("url", format!("`url` is not an address: {}", error.to_string().to_lowercase()))
                .hint(SHAPE)
        })?;
        let extra = url.query().is_some() || url.fragment().is_some();
        match url.to_file_path() {
            Ok(path) if !extra && url.host_str().is_none_or(str::is_empty) && path.parent().is_some() => {
                Ok(Location::Folder(path))
            }
            _ => Err(invalid("url", "`url` names no folder of this machine").hint(SHAPE)),
        }
    }

    /// Source: Amazon S3 User Guide, "Bucket naming rules".
    fn bucket(bucket: &str, prefix: &str) -> Result<Location, Error> {
        let named = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(named) || bucket.starts_with(['.', '-']) {
            return Err(invalid("url", format!("`{bucket}` is no name of a bucket"))
                .hint("it has 3 to 63 of `a-z0-9.-`, in `s3://BUCKET/PREFIX`"));
        }
        let prefix = prefix.trim_end_matches('/');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        if !prefix.bytes().all(plain)
            || prefix.split('/').any(|part| part.starts_with('.') || part.is_empty()) && !prefix.is_empty()
        {
            return Err(invalid("url", format!("`{prefix}` cannot stand before the names of objects"))
                .hint("take folders of `0-9A-Za-z._-`, joined by `/`"));
        }
        Ok(Location::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
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
            let found = config.location(Path::new("/srv/shop")).unwrap();
            assert_eq!(found, Location::Folder(folder.into()), "{url}");
        }
    }

    fn bucket() -> Config {
        Config { credentials: Some("far/writer".into()), ..Config::new("s3://shop-backups/steward") }
    }

    #[test]
    fn buckets_are_found() {
        for (url, prefix) in [
            ("s3://shop-backups", ""),
            ("s3://shop-backups/", ""),
            ("s3://shop-backups/a", "a"),
            ("s3://shop-backups/a/b_1/", "a/b_1"),
        ] {
            let config = Config { url: url.into(), ..bucket() };
            config.validate().unwrap();
            let expected = Location::Bucket { bucket: "shop-backups".into(), prefix: prefix.into() };
            assert_eq!(config.location(Path::new("/srv/shop")).unwrap(), expected, "{url}");
        }
        let config = Config { region: Some("eu-west-1".into()), ..bucket() };
        assert_eq!(config.endpoint().unwrap().as_str(), "https://s3.eu-west-1.amazonaws.com/");
    }

    #[test]
    fn wrong_urls_say_what_is_wrong() {
        for (url, message) in [
            ("", "`url` is empty"),
            ("gs://bucket/path", "`url` begins with `gs:`, where no repository can be kept"),
            ("file://otherhost/mnt", "`url` names no folder of this machine"),
            ("file:///mnt?x=1", "`url` names no folder of this machine"),
            ("file:///", "`url` names no folder of this machine"),
            ("s3://", "`` is no name of a bucket"),
            ("s3://Shop", "`Shop` is no name of a bucket"),
            ("s3://user:pw@host/x", "`user:pw@host` is no name of a bucket"),
            ("s3://shop/a b", "`a b` cannot stand before the names of objects"),
            ("s3://shop/../x", "`../x` cannot stand before the names of objects"),
        ] {
            let error = Config::new(url).validate().expect_err(url);
            assert_eq!((error.kind(), error.message()), (ErrorKind::Invalid, message), "{url}");
            assert!(error.hint_text().is_some(), "{url}");
        }
    }

    #[test]
    fn wrong_settings_name_their_key() {
        let wrong = |change: fn(&mut Config)| {
            let mut config = bucket();
            change(&mut config);
            let error = config.validate().unwrap_err();
            assert!(error.hint_text().is_some(), "{error}");
            let key = error.context().iter().find(|(name, _)| *name == "key").map(|(_, key)| key.clone());
            key.unwrap_or_else(|| panic!("{error}"))
        };
        bucket().validate().unwrap();
        assert_eq!(wrong(|config| config.key_secret = Some(String::new())), "key_secret");
        assert_eq!(wrong(|config| config.credentials = None), "credentials");
        assert_eq!(wrong(|config| config.prune_credentials = Some(String::new())), "prune_credentials");
        for endpoint in ["s3.example.net", "ftp://x", "https://a:b@x", "https://x/path", "https://x?y"] {
            let config = Config { endpoint: Some(endpoint.into()), ..bucket() };
            assert_eq!(config.validate().unwrap_err().context()[0].1, "endpoint", "{endpoint}");
        }
        assert_eq!(wrong(|config| config.region = Some("no region".into())), "region");
        assert_eq!(wrong(|config| config.timeout_s = Some(0)), "timeout_s");
        assert_eq!(wrong(|config| config.attempts_max = Some(0)), "attempts_max");
        assert_eq!(wrong(|config| config.upload_bytes_per_second = Some(1)), "upload_bytes_per_second");
        let lock = |days| Some(ObjectLock { mode: LockMode::Compliance, days });
        for days in [0, 36_501] {
            let config = Config { object_lock: lock(days), ..bucket() };
            assert_eq!(config.validate().unwrap_err().context()[0].1, "object_lock.days", "{days}");
        }
        let folder = Config { object_lock: lock(3), ..Config::new("backups") };
        assert_eq!(
            folder.validate().unwrap_err().message(),
            "`object_lock` is for buckets, and `url` is a folder"
        );
    }

    #[test]
    fn the_secret_is_named_after_the_repository() {
        assert_eq!(Config::new("x").key_secret("nightly"), "repository/nightly");
        let config = Config { key_secret: Some("shop/key".into()), ..Config::new("x") };
        assert_eq!(config.key_secret("nightly"), "shop/key");
    }

    #[test]
    fn a_place_for_archives_is_a_bucket() {
        BucketConfig::new("s3://shop-cold/rows", "s3/writer").validate().unwrap();
        for (url, key) in [("../cold", "url"), ("s3://A/b", "url"), ("s3://shop-cold/a//b", "url")] {
            let error = BucketConfig::new(url, "s3/writer").validate().unwrap_err();
            assert_eq!(error.context()[0].1, key, "{url}: {error}");
            assert!(error.hint_text().is_some(), "{url}");
        }
        let nobody = BucketConfig::new("s3://shop-cold", "").validate().unwrap_err();
        assert_eq!(nobody.context()[0].1, "credentials");
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error =
            serde_json::from_value::<Config>(serde_json::json!({"url": "x", "key": "y"})).unwrap_err();
        assert!(error.to_string().contains("unknown field `key`"), "{error}");
    }
}
