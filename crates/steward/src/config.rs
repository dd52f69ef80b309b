//! The project file, `steward.yaml`, turned into types once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use contract::{Error, ErrorKind, Trigger};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Largest project file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file's name.
pub(crate) const FILE_NAME: &str = "steward.yaml";

/// `steward.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names the project; every row, lease and secret carries it. Lower-case letters, digits, `-` and `_`.
    pub project: String,
    /// What kind of data this is; rules for production are stricter. Default: development.
    #[serde(default)]
    pub environment: Environment,
    /// The state file, relative to this file. Several projects may share one. Default: `.steward/state.db`.
    #[serde(default = "default_state")]
    pub state: PathBuf,
    /// Where the master key is. Default: the file `master.key` beside the state file.
    #[serde(default)]
    pub master_key: MasterKeyConfig,
    /// Databases by name.
    #[serde(default)]
    pub stores: BTreeMap<String, StoreConfig>,
    /// How `steward up` listens.
    #[serde(default)]
    pub http: HttpConfig,
    /// The audit trail.
    #[serde(default)]
    pub audit: AuditConfig,
    /// Where escalations are sent, by name.
    #[serde(default)]
    pub webhooks: BTreeMap<String, WebhookConfig>,
    /// Requests that `steward up` makes by itself, by name.
    #[serde(default)]
    pub schedules: BTreeMap<String, ScheduleConfig>,
    /// Queries that matter, by store and name; tasks and measurements refer to them.
    #[serde(default)]
    pub queries: BTreeMap<String, BTreeMap<String, String>>,
    /// Tables that shall hold the same rows, by name; `store compare` runs them.
    #[serde(default)]
    pub checks: BTreeMap<String, stores::RowCheck>,
    /// Backups: where they lie, and what is backed up together.
    #[serde(default)]
    pub backup: BackupConfig,
    /// Old rows: moved into files that others can read.
    #[serde(default)]
    pub archive: ArchiveConfig,
    /// Old rows: deleted without an archive.
    #[serde(default)]
    pub retention: RulesConfig,
    /// Rows that nothing archives away or deletes, by name.
    #[serde(default)]
    pub legal_holds: BTreeMap<String, backup::archive::LegalHold>,
    /// What the numbers should be.
    #[serde(default)]
    pub objectives: Objectives,
    /// The AI gateway.
    #[serde(default)]
    pub ai: gateway::AiConfig,
}

/// What kind of data a project holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Environment {
    /// A developer's own data.
    #[default]
    Development,
    /// A copy to try things on.
    Staging,
    /// The data that the business runs on.
    Production,
}

/// Where the master key is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MasterKeyConfig {
    /// `master.key` beside the state file.
    #[default]
    Default,
    /// Another file, relative to the project file.
    File(PathBuf),
    /// The environment variable with this name holds it, base64.
    Environment(String),
    /// The operating system's keyring, under this service name.
    Keyring(String),
}

/// One database. The first key is `kind`; the others are the adapter's.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// A SQLite file.
    Sqlite(store_sqlite::Config),
    /// A PostgreSQL server.
    Postgres(Box<store_postgres::Config>),
    /// A folder of files.
    Folder(store_folder::Config),
}

impl StoreConfig {
    /// The kinds there are.
    pub const KINDS: &[&str] = &["sqlite", "postgres", "folder"];

    /// The kind as written.
    pub fn kind(&self) -> &'static str {
        match self {
            StoreConfig::Sqlite(_) => store_sqlite::KIND,
            StoreConfig::Postgres(_) => store_postgres::KIND,
            StoreConfig::Folder(_) => store_folder::KIND,
        }
    }
}

// By hand, not `#[serde(tag)]`: a tagged enum is buffered and loses the line of an error.
impl<'de> Deserialize<'de> for StoreConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ByKind;
        impl<'de> Visitor<'de> for ByKind {
            type Value = StoreConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a store: `kind` first, then its settings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StoreConfig, A::Error> {
                use serde::de::Error;
                match map.next_key::<String>()?.as_deref() {
                    Some("kind") => {}
                    _ => return Err(A::Error::custom("the first key of a store must be `kind`")),
                }
                match map.next_value::<String>()?.as_str() {
                    "sqlite" => {
                        Deserialize::deserialize(MapAccessDeserializer::new(map)).map(StoreConfig::Sqlite)
                    }
                    "postgres" => {
                        Box::deserialize(MapAccessDeserializer::new(map)).map(StoreConfig::Postgres)
                    }
                    "folder" => {
                        Deserialize::deserialize(MapAccessDeserializer::new(map)).map(StoreConfig::Folder)
                    }
                    other => Err(A::Error::unknown_variant(other, StoreConfig::KINDS)),
                }
            }
        }
        deserializer.deserialize_map(ByKind)
    }
}

/// Backups of the project's stores.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// Where backups lie, by name; restic's format, encrypted. Default: `local`, the folder `backups` beside the state file.
    pub repositories: BTreeMap<String, repository_restic::Config>,
    /// What is backed up together, how, where to and how long it is kept, by name.
    pub plans: BTreeMap<String, backup::PlanConfig>,
}

/// Old rows that are moved into files.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// Buckets that rules name in `to`, by name.
    pub places: BTreeMap<String, repository_restic::BucketConfig>,
    /// Which rows, and where they go, by name.
    pub rules: BTreeMap<String, backup::archive::ColdRule>,
}

/// Rules for old rows.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RulesConfig {
    /// Which rows, and what becomes of them, by name.
    pub rules: BTreeMap<String, backup::archive::ColdRule>,
}

/// How `steward up` listens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port. Beyond loopback only with `tls`. Default: `127.0.0.1:7878`.
    pub listen: String,
    /// Certificate and key, PEM files.
    pub tls: Option<TlsConfig>,
    /// Host names that clients may use to reach the MCP endpoint, besides loopback.
    pub hosts: Vec<String>,
    /// How long requests and streams may go on after the daemon was told to stop, in seconds. Default: 30.
    pub drain_s: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7878".into(), tls: None, hosts: Vec::new(), drain_s: 30 }
    }
}

/// Certificate and key of the HTTP server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate chain, relative to the project file.
    pub certificate: PathBuf,
    /// PEM file with the private key, relative to the project file.
    pub key: PathBuf,
}

/// Where the signed head of the audit trail is also kept.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Another file, on another disk or a mounted share.
    pub head_copy: Option<PathBuf>,
    /// The head is sent there by POST, signed like every webhook.
    pub head_webhook: Option<String>,
}

/// Where escalations are sent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Receives JSON by POST.
    pub url: String,
    /// Name of the secret that signs the body.
    pub secret: String,
    /// Which escalations; all when absent.
    #[serde(default)]
    pub triggers: Option<Vec<Trigger>>,
}

/// A request that the daemon makes by itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Five fields: minute, hour, day of month, month, day of week.
    pub cron: String,
    /// IANA time zone in which the fields are read. Default: UTC.
    #[serde(default = "default_zone")]
    pub zone: String,
    /// The request, such as `store.consistency`.
    pub request: String,
    /// Its arguments.
    #[serde(default)]
    pub arguments: serde_json::Map<String, serde_json::Value>,
    /// What to do with times that passed while the daemon was down. Default: run once.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// A run begins up to this many minutes later, always the same for the same time, so that not everything begins at
    /// once. Default: 0.
    #[serde(default)]
    pub jitter_minutes: u32,
    /// Runs begin only in these hours of the zone, such as `22:00-06:00`; what is due at other times waits for them.
    /// Default: at any.
    #[serde(default)]
    pub hours: Option<String>,
}

/// What to do with due times that were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Once, however many were missed.
    #[default]
    Once,
    /// Not at all.
    Skip,
}

/// What the numbers should be; from the mission's success metrics.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Objectives {
    /// 95th percentile of query time, in milliseconds. Default: 50.
    pub query_p95_ms: f64,
}

impl Default for Objectives {
    fn default() -> Self {
        Self { query_p95_ms: 50.0 }
    }
}

fn default_state() -> PathBuf {
    PathBuf::from(".steward/state.db")
}

fn default_zone() -> String {
    "UTC".into()
}

/// A project file with the folder it lies in.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The checked values.
    pub config: Config,
    /// The folder of the file, absolute; relative paths start here.
    pub dir: PathBuf,
    /// The file itself.
    pub file: PathBuf,
}

impl Loaded {
    /// The state file's absolute path.
    ///
    /// Two files that name the same place in different ways give the same path, as far as its folders exist.
    pub fn state_path(&self) -> PathBuf {
        let mut path = PathBuf::new();
        for part in self.dir.join(&self.config.state).components() {
            match part {
                Component::ParentDir => drop(path.pop()),
                part => path.push(part),
            }
        }
        match (path.parent().map(Path::canonicalize), path.file_name()) {
            (Some(Ok(folder)), Some(name)) => folder.join(name),
            _ => path,
        }
    }
}

/// Finds `steward.yaml` in `start` or the nearest folder above it.
///
/// # Errors
///
/// `NotFound`: none there; the hint names `steward init`.
pub(crate) fn find(start: &Path) -> Result<PathBuf, Error> {
    start.ancestors().map(|dir| dir.join(FILE_NAME)).find(|file| file.is_file()).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("no `{FILE_NAME}` here or in a folder above"))
            .with("folder", start.display())
            .hint("write one with `steward init`, or name it with `--project-file`")
    })
}

/// Reads and checks a project file.
///
/// # Errors
///
/// `Invalid`: with file, line, key and a hint.
pub fn load(file: &Path) -> Result<Loaded, Error> {
    let unreadable = |cause: std::io::Error| {
        Error::new(ErrorKind::Invalid, "cannot read the project file")
            .with("file", file.display())
            .because(cause)
            .hint("write one with `steward init`, or name it with `--project-file`")
    };
    let file = file.canonicalize().map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    if size > FILE_BYTES_MAX {
        return Err(Error::new(ErrorKind::Invalid, format!("the project file has {size} bytes"))
            .with("file", file.display())
            .hint(format!("a project file has at most {FILE_BYTES_MAX} bytes; is this the right file?")));
    }
    let bytes = std::fs::read(&file).map_err(unreadable)?;
    let text = crate::files::utf8(&file.display().to_string(), bytes)?;
    let config = parse(&text).map_err(|error| error.with("file", file.display()))?;
    let dir = file.parent().expect("a canonical file has a folder").to_owned();
    Ok(Loaded { config, dir, file })
}

/// Turns the text into checked values; errors carry line and key.
///
/// # Errors
///
/// `Invalid`.
pub(crate) fn parse(text: &str) -> Result<Config, Error> {
    let config: Config = serde_saphyr::from_str(text).map_err(|error| {
        let error = error.without_snippet();
        // Only the parser's own sentence: a snippet could show a password.
        let message = error.to_string();
        // The library's advice to programmers says nothing to whoever writes the file.
        let message = message.replace(", set DuplicateKeyPolicy in Options if acceptable", "");
        let message = message.replace("duplicate mapping key: ", "duplicate key ");
        let message = message.split_once(": ").map_or(message.as_str(), |(_, rest)| rest);
        let message = message.lines().next().unwrap_or_default();
        let message = message.split_once(" at line ").map_or(message, |(what, _)| what);
        let message = if text.trim().is_empty() { "the project file is empty" } else { message };
        let mut out = Error::new(ErrorKind::Invalid, redact_url_password(message));
        if let Some(location) = error.location() {
            let line = usize::try_from(location.line()).unwrap_or(0);
            out = out.with("line", line);
            let mut path = key_path(text, line);
            // The parser stands at another key of the mapping in which the named one is missing.
            if let Some(missing) =
                message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next())
            {
                let parent = path.rfind('.').map_or(0, |dot| dot + 1);
                path.replace_range(parent.., missing);
            }
            if !path.is_empty() {
                out = out.with("key", path);
            }
        }
        out.hint("compare with what `steward init` writes; `docs/reference/configuration.md` lists every key")
    })?;
    validate(&config).map_err(|(path, error)| {
        let mut out = error;
        if let Some(line) = line_of(text, &path) {
            out = out.with("line", line);
        }
        out.with("key", path.join("."))
    })?;
    Ok(config)
}

type At<T> = Result<T, (Vec<String>, Error)>;

fn validate(config: &Config) -> At<()> {
    let at = |path: &[&str], message: &str, hint: &str| {
        let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
        Err((path, Error::new(ErrorKind::Invalid, message).hint(hint)))
    };
    if !is_name(&config.project) {
        return at(
            &["project"],
            "this is no project name",
            "use 1 to 63 lower-case letters, digits, `-` and `_`",
        );
    }
    for (name, store) in &config.stores {
        if !is_name(name) {
            return at(
                &["stores", name],
                "this is no store name",
                "use lower-case letters, digits, `-` and `_`",
            );
        }
        if name == crate::own_state::NAME {
            return at(
                &["stores", name],
                "`steward` is the name of Steward's own state",
                "choose another; `steward backup run steward` backs the state up",
            );
        }
        let checked = match store {
            StoreConfig::Sqlite(store) => store.validate(),
            StoreConfig::Postgres(store) => store.validate(),
            StoreConfig::Folder(store) => store.validate(),
        };
        if let Err(error) = checked {
            let key = error.context().iter().find(|(name, _)| *name == "key").map(|(_, key)| key.clone());
            let mut path = vec!["stores".to_owned(), name.clone()];
            path.extend(key.iter().flat_map(|key| key.split('.').map(str::to_owned)));
            let mut out = Error::new(error.kind(), error.message());
            if let Some(hint) = error.hint_text() {
                out = out.hint(hint);
            }
            return Err((path, out));
        }
    }
    for store in config.queries.keys() {
        if !config.stores.contains_key(store) {
            return at(&["queries", store], "there is no store of this name", "name one of `stores`");
        }
    }
    let address: Result<std::net::SocketAddr, _> = config.http.listen.parse();
    match address {
        Err(_) => {
            return at(&["http", "listen"], "this is no address and port", "write it as `127.0.0.1:7878`");
        }
        Ok(address) if !address.ip().is_loopback() && config.http.tls.is_none() => {
            return at(
                &["http", "listen"],
                "beyond loopback Steward listens only with TLS",
                "set `http.tls.certificate` and `http.tls.key`, or listen on 127.0.0.1",
            );
        }
        Ok(_) => {}
    }
    let check_url = |path: &[&str], url: &str| match url::Url::parse(url) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.host().is_some() => {
            if url.password().is_some() || !url.username().is_empty() {
                return at(
                    path,
                    "the URL contains a login",
                    "a webhook is signed with its `secret`; remove the login",
                );
            }
            Ok(())
        }
        _ => at(path, "this is no URL", "write it as `https://host/path`"),
    };
    for (name, webhook) in &config.webhooks {
        check_url(&["webhooks", name, "url"], &webhook.url)?;
    }
    if let Some(url) = &config.audit.head_webhook
        && !config.webhooks.contains_key(url)
    {
        return at(&["audit", "head_webhook"], "there is no webhook of this name", "name one of `webhooks`");
    }
    for (name, check) in &config.checks {
        if !is_name(name) {
            return at(
                &["checks", name],
                "this is no name for a check",
                "use lower-case letters, digits, `-` and `_`",
            );
        }
        if let Err(error) = check.validate() {
            let key = error.context().iter().find(|(name, _)| *name == "key").map(|(_, key)| key.clone());
            let mut path = vec!["checks".to_owned(), name.clone()];
            path.extend(key);
            let out = Error::new(error.kind(), error.message());
            return Err((path, out.hint(error.hint_text().unwrap_or_default())));
        }
        for (side, store) in ["left", "right"].into_iter().zip(check.stores()) {
            if !config.stores.contains_key(store) {
                return at(
                    &["checks", name, side],
                    &format!("there is no store `{store}`"),
                    "begin with one of `stores`: `store.table`",
                );
            }
        }
    }
    for (name, schedule) in &config.schedules {
        if let Err(error) = crate::schedule::check(schedule) {
            return Err((vec!["schedules".into(), name.clone(), key_of_schedule(&error)], error));
        }
        if !crate::request::specs().iter().any(|spec| spec.name == schedule.request) {
            return at(
                &["schedules", name, "request"],
                "there is no such request",
                "`steward docs reference` lists them",
            );
        }
    }
    validate_backup(config)?;
    validate_rules(config)?;
    if let Err(error) = config.ai.validate() {
        let key = error.context().iter().find(|(name, _)| *name == "key").map(|(_, key)| key.clone());
        let mut path = vec!["ai".to_owned()];
        path.extend(key.iter().flat_map(|key| key.split('.').map(str::to_owned)));
        let out = Error::new(error.kind(), error.message());
        return Err((path, out.hint(error.hint_text().unwrap_or_default())));
    }
    if config.objectives.query_p95_ms.is_nan() || config.objectives.query_p95_ms <= 0.0 {
        return at(&["objectives", "query_p95_ms"], "this is no time", "use milliseconds above 0");
    }
    Ok(())
}

/// The key of a schedule that an error is about.
fn key_of_schedule(error: &Error) -> String {
    error
        .context()
        .iter()
        .find(|(name, _)| *name == "key")
        .map_or_else(|| "cron".to_owned(), |(_, key)| key.clone())
}

fn validate_backup(config: &Config) -> At<()> {
    let wrong = |path: &[&str], error: &Error| {
        let mut path: Vec<String> = ["backup"].iter().chain(path).map(|part| (*part).to_owned()).collect();
        let key = error.context().iter().find(|(name, _)| *name == "key").map(|(_, key)| key.clone());
        path.extend(key.iter().flat_map(|key| key.split('.').map(str::to_owned)));
        let out = Error::new(error.kind(), error.message());
        Err((
            path,
            out.hint(error.hint_text().unwrap_or("`docs/reference/configuration.md` lists every key")),
        ))
    };
    for (name, repository) in &config.backup.repositories {
        if let Err(error) = repository.validate() {
            return wrong(&["repositories", name], &error);
        }
    }
    let mut stores: BTreeSet<String> = config.stores.keys().cloned().collect();
    stores.insert(crate::own_state::NAME.to_owned());
    let repositories = crate::backups::names(config);
    for (name, plan) in &config.backup.plans {
        if let Err(error) = plan.check(&stores, &repositories) {
            return wrong(&["plans", name], &error);
        }
    }
    for (name, schedule) in crate::schedule::all(config) {
        let Some(plan) = name.strip_prefix("backup:") else { continue };
        if let Err(error) = crate::schedule::check(&schedule) {
            let key = key_of_schedule(&error);
            let path = ["backup", "plans", plan, "schedule", &key];
            return Err((path.iter().map(|part| (*part).to_owned()).collect(), error));
        }
    }
    Ok(())
}

/// Names of projects, stores and rules; they become names of files too.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

fn validate_rules(config: &Config) -> At<()> {
    let stores = config.stores.keys().cloned().collect();
    for (name, place) in &config.archive.places {
        let path = |key: Option<String>| {
            let start = ["archive".to_owned(), "places".to_owned(), name.clone()].into_iter();
            start
                .chain(key.into_iter().flat_map(|key| key.split('.').map(str::to_owned).collect::<Vec<_>>()))
                .collect()
        };
        if !is_name(name) {
            let error = Error::new(ErrorKind::Invalid, "a place's name cannot be this")
                .hint("use lower-case letters, digits, `-` and `_`");
            return Err((path(None), error));
        }
        if let Err(error) = place.validate() {
            let key = error.context().iter().find(|(name, _)| *name == "key").map(|(_, key)| key.clone());
            return Err((path(key), error));
        }
    }
    for (section, rules) in [("archive", &config.archive.rules), ("retention", &config.retention.rules)] {
        for (name, rule) in rules {
            if !is_name(name) {
                let error = Error::new(ErrorKind::Invalid, "a rule's name cannot be this")
                    .hint("use lower-case letters, digits, `-` and `_`");
                return Err((vec![section.into(), "rules".into(), name.clone()], error));
            }
            if let Err(error) = rule.check(&stores, section == "archive") {
                let key = error.context().iter().find(|(name, _)| *name == "key").map(|(_, key)| key.clone());
                let mut path = vec![section.to_owned(), "rules".to_owned(), name.clone()];
                path.extend(key);
                let out = Error::new(error.kind(), error.message());
                let hint = error.hint_text().unwrap_or("`docs/reference/configuration.md` lists every key");
                return Err((path, out.hint(hint)));
            }
            if let Some(to) = rule.to.as_ref().filter(|to| to.contains("://")) {
                let error = Error::new(ErrorKind::Invalid, format!("`{to}` is no folder and no place"))
                    .hint("write the bucket under `archive.places` by a name, with `url` and `credentials`, and that name here");
                return Err((vec![section.into(), "rules".into(), name.clone(), "to".into()], error));
            }
        }
    }
    for (name, hold) in &config.legal_holds {
        if !config.stores.contains_key(&hold.store) {
            let error = Error::new(ErrorKind::Invalid, "there is no such store")
                .hint("a hold names a store under `stores`");
            return Err((vec!["legal_holds".into(), name.clone(), "store".into()], error));
        }
    }
    Ok(())
}

/// `scheme://user:password@` loses its password.
fn redact_url_password(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || c == '/' || c == '`' || c == '"')
            .unwrap_or(after.len());
        match after[..end].rfind('@') {
            Some(at) => {
                out.push_str("[redacted]");
                rest = &after[at..];
            }
            None => rest = after,
        }
    }
    out.push_str(rest);
    out
}

/// Indentation and key of a block-mapping line, such as `  url: x` → (2, "url").
fn key_of(line: &str) -> Option<(usize, &str)> {
    let trimmed = line.trim_start();
    if trimmed.starts_with('#') || trimmed.starts_with('-') {
        return None;
    }
    let (key, rest) = trimmed.split_once(':')?;
    if key.is_empty() || !(rest.is_empty() || rest.starts_with(' ')) {
        return None;
    }
    Some((line.len() - trimmed.len(), key.trim_matches(['"', '\''])))
}

/// The path of keys that leads to a line (counted from 1), such as `stores.orders.url`.
fn key_path(text: &str, line: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut path = Vec::new();
    let mut below = usize::MAX;
    for text in lines.iter().take(line).rev() {
        if let Some((indent, key)) = key_of(text)
            && indent < below
        {
            path.push(key);
            below = indent;
            if indent == 0 {
                break;
            }
        }
    }
    path.reverse();
    path.join(".")
}

/// The line (counted from 1) of a path of keys, or of the longest part of it that stands in the text.
fn line_of(text: &str, path: &[String]) -> Option<usize> {
    let mut found = None;
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut depth = 0;
    for (number, line) in text.lines().enumerate() {
        let Some((indent, key)) = key_of(line) else { continue };
        while open.last().is_some_and(|(outer, _)| *outer >= indent) {
            open.pop();
        }
        open.push((indent, key));
        if open.len() <= path.len()
            && open.len() > depth
            && open.iter().zip(path).all(|((_, key), part)| key == part)
        {
            depth = open.len();
            found = Some(number + 1);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_line_key_and_what_to_do() {
        let cases: [(&str, &str, &str, &str); 21] = [
            (
                "project: shop\nai:\n  providers:\n    p:\n      kind: openai\n      url: http://169.254.169.254/v1\n",
                "cloud's metadata",
                "6",
                "ai.providers.p.url",
            ),
            (
                "project: shop\nai:\n  providers:\n    p: { kind: openai, url: http://127.0.0.1:1/v1 }\n  routes:\n    fast:\n      targets: [ { provider: x, model: m } ]\n",
                "there is no provider `x`",
                "7",
                "ai.routes.fast.targets.0.provider",
            ),
            (
                "project: shop\nai:\n  providers:\n    p:\n      kind: openai\n      keys: [a/b]\n      url: http://llm.example.com/v1\n",
                "keys would travel unencrypted",
                "7",
                "ai.providers.p.url",
            ),
            (
                "project: shop\nai:\n  providers:\n    p:\n      kind: openai\n",
                "the provider asks for a key",
                "4",
                "ai.providers.p.keys",
            ),
            ("project: shop\nai:\n  route: {}\n", "unknown field `route`", "3", "ai.route"),
            ("", "the project file is empty", "", ""),
            (
                "project: shop\nstores:\n  a:\n    kind: postgres\n    url: postgres://h/db\n",
                "missing field `reader`",
                "5",
                "stores.a.reader",
            ),
            ("project: shop\nstoress: {}\n", "unknown field `storess`", "2", "storess"),
            (
                "project: shop\nstores:\n  a:\n    kind: sqlite\n    pth: x\n",
                "unknown field `pth`",
                "5",
                "stores.a.pth",
            ),
            (
                "project: shop\nstores:\n  a:\n    path: x\n",
                "the first key of a store must be `kind`",
                "4",
                "stores.a.path",
            ),
            ("project: shop\nstores:\n  a:\n    kind: oracle\n", "unknown variant `oracle`", "", ""),
            ("project: Shop!\n", "this is no project name", "1", "project"),
            ("project: shop\nhttp:\n  listen: here\n", "this is no address and port", "3", "http.listen"),
            (
                "project: shop\nhttp:\n  listen: 0.0.0.0:80\n",
                "beyond loopback Steward listens only with TLS",
                "3",
                "http.listen",
            ),
            (
                "project: shop\nstores:\n  a:\n    kind: sqlite\n    path: x\nbackup:\n  plans:\n    p:\n      stores: [a]\n      schedule:\n        cron: \"10 2 * * *\"\n        hours: 22-6\n",
                "`22-6` names no hours of the day",
                "12",
                "backup.plans.p.schedule.hours",
            ),
            (
                "project: shop\nschedules:\n  n:\n    cron: \"61 * * * *\"\n    request: status.show\n",
                "cron",
                "4",
                "schedules.n.cron",
            ),
            (
                "project: shop\nstores:\n  a:\n    kind: postgres\n    url: postgres://u:hunter2@h/db\n    reader: { user: r }\n",
                "password",
                "5",
                "stores.a.url",
            ),
            (
                "project: shop\nstores:\n  a:\n    kind: sqlite\n    path: x\nchecks:\n  c:\n    left: a.t\n    right: b.t\n",
                "there is no store `b`",
                "9",
                "checks.c.right",
            ),
            (
                "project: shop\nstores:\n  a:\n    kind: sqlite\n    path: x\nchecks:\n  c:\n    left: t\n    right: a.t\n",
                "this names no table of a store",
                "8",
                "checks.c.left",
            ),
            (
                "project: shop\nchecks:\n  c:\n    left: a.t\n    rigth: a.u\n",
                "unknown field `rigth`",
                "5",
                "checks.c.rigth",
            ),
            ("project: shop\nchecks:\n  c:\n    left: a.t\n", "missing field `right`", "4", "checks.c.right"),
        ];
        for (text, message, line, key) in cases {
            let error = parse(text).expect_err(text);
            let printed = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{printed}");
            assert!(printed.contains(message), "{text}\n→ {printed}");
            assert!(line.is_empty() || printed.contains(&format!("line: {line}")), "{text}\n→ {printed}");
            assert!(key.is_empty() || printed.contains(&format!("key: {key}")), "{text}\n→ {printed}");
            assert!(printed.contains("hint: "), "{printed}");
            assert!(!printed.contains("hunter2"), "{printed}");
        }
    }

    #[test]
    fn yaml_bomb_is_refused() {
        let mut text = String::from("project: shop\nstores: {}\nx: &a0 [1,1,1,1,1,1,1,1,1]\n");
        for i in 1..30 {
            let aliases = vec![format!("*a{}", i - 1); 9].join(",");
            text.extend([format!("y{i}: &a{i} [{aliases}]\n")]);
        }
        assert_eq!(parse(&text).expect_err("a bomb").kind(), ErrorKind::Invalid);
        let deep = format!("project: {}", "[".repeat(100_000));
        assert_eq!(parse(&deep).expect_err("a bomb").kind(), ErrorKind::Invalid);
    }
}
