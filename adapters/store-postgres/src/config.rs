//! What a project file says of a PostgreSQL store.

use std::path::PathBuf;

use contract::{Error, ErrorKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

/// A PostgreSQL database and the logins that Steward uses for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the server is, without credentials: `postgres://host:5432/database`.
    pub url: String,
    /// The same database past a pooler that shares sessions, such as PgBouncer in transaction mode; changes go this way.
    /// Default: none, for an `url` that leads to the server itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_url: Option<String>,
    /// The login that reads: `store inspect`, `store query`. It should be neither superuser nor owner;
    /// `steward store setup` makes such a login.
    pub reader: LoginConfig,
    /// The login that changes: migrations, indexes. Without it the store cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<LoginConfig>,
    /// The login that makes the other two: for `steward store setup`, the corruption check, to see what other sessions
    /// do, and for changes of rights, settings and sessions that the writing login may not make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<LoginConfig>,
    /// Encryption: `disable`, `prefer`, `require` or `verify`. Default: `verify`; on a loopback address `prefer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// PEM file with the certificate authorities that `verify` trusts, relative to the project file. Default: those of the operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ca_file: Option<PathBuf>,
    /// The folder of PostgreSQL's own programs (`pg_dump`, `psql`, `initdb` …) for backups and restores, relative to the
    /// project file. Default: those in PATH and in `/usr/lib/postgresql/*/bin`, of the server's version where they are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bin_dir: Option<PathBuf>,
    /// Most reading connections open at once. Default: 8.
    #[serde(default = "default_connections_max")]
    pub connections_max: u32,
    /// Longest time to connect and log in, in milliseconds. Default: 10,000.
    #[serde(default = "default_connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// Longest time that a statement waits for a lock, in milliseconds. Default: 5,000: everything that comes after a
    /// waiting schema change waits behind it.
    #[serde(default = "default_lock_timeout_ms")]
    pub lock_timeout_ms: u64,
    /// Longest time for one statement of a step that runs in a transaction, in milliseconds. Default: 900,000 (15
    /// minutes). Steps outside a transaction, such as a concurrent index build, are bounded by the caller's deadline.
    #[serde(default = "default_statement_timeout_ms")]
    pub statement_timeout_ms: u64,
}

/// A login of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginConfig {
    /// The role's name.
    pub user: String,
    /// Name of the secret that holds the password, such as `orders/steward_reader`. Default: none, for servers that
    /// do not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<String>,
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// Never.
    Disable,
    /// If the server can; whoever answers is believed.
    Prefer,
    /// Always; whoever answers is believed.
    Require,
    /// Always, and the server proves its name by a certificate.
    Verify,
}

fn default_connections_max() -> u32 {
    8
}

fn default_connect_timeout_ms() -> u64 {
    10_000
}

fn default_lock_timeout_ms() -> u64 {
    5_000
}

fn default_statement_timeout_ms() -> u64 {
    900_000
}

/// A checked address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: String,
}

impl Address {
    /// Whether the server is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bracketed = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{bracketed}:{}/{}", self.port, self.database)
    }
}

fn invalid(key: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message).with("key", key)
}

impl Config {
    /// A store at `url` with this reading login and the defaults.
    pub fn new(url: &str, reader: LoginConfig) -> Self {
        Self {
            url: url.to_owned(),
            direct_url: None,
            reader,
            writer: None,
            admin: None,
            tls: None,
            tls_ca_file: None,
            bin_dir: None,
            connections_max: default_connections_max(),
            connect_timeout_ms: default_connect_timeout_ms(),
            lock_timeout_ms: default_lock_timeout_ms(),
            statement_timeout_ms: default_statement_timeout_ms(),
        }
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// `Invalid`: names the key in its context and says in the hint what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        self.address()?;
        self.direct_address()?;
        for (key, login) in [
            ("reader.user", Some(&self.reader)),
            ("writer.user", self.writer.as_ref()),
            ("admin.user", self.admin.as_ref()),
        ] {
            if login.is_some_and(|login| login.user.is_empty() || login.user.contains('\0')) {
                return Err(invalid(key, format!("`{key}` is empty")).hint("name a role of the server"));
            }
        }
        if self.writer.as_ref().is_some_and(|writer| writer.user == self.reader.user) {
            return Err(invalid("writer.user", "`writer.user` is the same login as `reader.user`")
                .hint("use two logins, so that reading cannot write; `steward store setup` makes them"));
        }
        if self.connections_max == 0 {
            return Err(invalid("connections_max", "`connections_max` is 0").hint("write at least 1"));
        }
        for (key, value) in [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("lock_timeout_ms", self.lock_timeout_ms),
            ("statement_timeout_ms", self.statement_timeout_ms),
        ] {
            if value == 0 || i32::try_from(value).is_err() {
                return Err(invalid(key, format!("`{key}` is {value}"))
                    .hint("write milliseconds from 1 to 2147483647 (about 24 days)"));
            }
        }
        if self.tls_ca_file.is_some() && self.tls_mode(&self.address()?) != Tls::Verify {
            return Err(invalid("tls_ca_file", "`tls_ca_file` is used by `tls: verify` alone")
                .hint("write `tls: verify`, or remove `tls_ca_file`"));
        }
        Ok(())
    }

    /// The address without credentials.
    pub(crate) fn address(&self) -> Result<Address, Error> {
        address("url", &self.url)
    }

    /// The address past a pooler, if one is configured.
    pub(crate) fn direct_address(&self) -> Result<Option<Address>, Error> {
        self.direct_url.as_deref().map(|url| address("direct_url", url)).transpose()
    }

    /// The encryption that applies to an address.
    pub(crate) fn tls_mode(&self, address: &Address) -> Tls {
        self.tls.unwrap_or(if address.is_loopback() { Tls::Prefer } else { Tls::Verify })
    }
}

/// Takes an address apart and refuses what does not belong into it.
fn address(key: &'static str, text: &str) -> Result<Address, Error> {
    const SHAPE: &str = "write `postgres://host:5432/database`";
    let url = Url::parse(text).map_err(|error| {
        invalid(key, format!("`{key}` is not an address: {}", error.to_string().to_lowercase())).hint(SHAPE)
    })?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(invalid(key, format!("`{key}` begins with `{}:`", url.scheme())).hint(SHAPE));
    }
    if url.password().is_some() {
        return Err(invalid(key, format!("`{key}` contains a password")).hint(
            "move it to the vault with `steward secret put NAME`, then set `reader.password_secret: NAME`",
        ));
    }
    if !url.username().is_empty() {
        return Err(invalid(key, format!("`{key}` contains a user")).hint("write the user as `reader.user`"));
    }
    if let Some((option, _)) = url.query_pairs().next() {
        return Err(invalid(key, format!("`{key}` contains the option `{option}`"))
            .hint("options have keys of their own, such as `tls` and `connect_timeout_ms`"));
    }
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(invalid(key, format!("`{key}` names no host")).hint(SHAPE));
    }
    let database = percent_decoded(url.path().trim_start_matches('/'))
        .ok_or_else(|| invalid(key, format!("the database in `{key}` is not UTF-8")).hint(SHAPE))?;
    if database.is_empty() || database.contains(['/', '\0']) {
        return Err(invalid(key, format!("`{key}` names no database")).hint(SHAPE));
    }
    Ok(Address { host: host.to_owned(), port: url.port().unwrap_or(5432), database })
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        if let (b'%', [high, low, after @ ..]) = (first, tail) {
            bytes.push(hex(*high)? * 16 + hex(*low)?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: &str) -> LoginConfig {
        LoginConfig { user: user.into(), password_secret: None }
    }

    #[test]
    fn wrong_urls_say_what_is_wrong() {
        for (url, message) in [
            ("orders", "`url` is not an address: relative url without a base"),
            ("mysql://host/db", "`url` begins with `mysql:`"),
            ("postgres://anna:hunter2@host/db", "`url` contains a password"),
            ("postgres://anna@host/db", "`url` contains a user"),
            ("postgres://host/db?sslmode=disable", "`url` contains the option `sslmode`"),
            ("postgres:///db", "`url` names no host"),
            ("postgres://host", "`url` names no database"),
            ("postgres://host/a%ff", "the database in `url` is not UTF-8"),
        ] {
            let error = Config::new(url, login("steward_reader")).validate().expect_err(url);
            assert_eq!((error.kind(), error.message()), (ErrorKind::Invalid, message), "{url}");
            assert_eq!(error.context(), [("key", "url".to_owned())], "{url}");
            assert!(error.hint_text().is_some() && !error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn wrong_values_say_what_is_wrong() {
        type Break = fn(&mut Config);
        let good = || Config::new("postgres://127.0.0.1/orders", login("steward_reader"));
        good().validate().unwrap();
        let cases: [(Break, &str, &str); 8] = [
            (|c| c.reader.user.clear(), "reader.user", "`reader.user` is empty"),
            (|c| c.writer = Some(login("")), "writer.user", "`writer.user` is empty"),
            (|c| c.admin = Some(login("")), "admin.user", "`admin.user` is empty"),
            (
                |c| c.writer = Some(login("steward_reader")),
                "writer.user",
                "`writer.user` is the same login as `reader.user`",
            ),
            (|c| c.connections_max = 0, "connections_max", "`connections_max` is 0"),
            (|c| c.lock_timeout_ms = 0, "lock_timeout_ms", "`lock_timeout_ms` is 0"),
            (
                |c| c.statement_timeout_ms = 1 << 31,
                "statement_timeout_ms",
                "`statement_timeout_ms` is 2147483648",
            ),
            (
                |c| c.tls_ca_file = Some("ca.pem".into()),
                "tls_ca_file",
                "`tls_ca_file` is used by `tls: verify` alone",
            ),
        ];
        for (spoil, key, message) in cases {
            let mut config = good();
            spoil(&mut config);
            let error = config.validate().expect_err(message);
            assert_eq!((error.kind(), error.message()), (ErrorKind::Invalid, message));
            assert_eq!(error.context(), [("key", key.to_owned())]);
            assert!(error.hint_text().is_some(), "{error}");
        }
    }

    #[test]
    fn addresses_are_read_whole() {
        for (url, address, tls) in [
            ("postgres://db.example.org/orders", "db.example.org:5432/orders", Tls::Verify),
            ("postgresql://localhost:6000/a%20b", "localhost:6000/a b", Tls::Prefer),
            ("postgres://[::1]:5433/orders", "[::1]:5433/orders", Tls::Prefer),
        ] {
            let config = Config::new(url, login("steward_reader"));
            config.validate().unwrap();
            assert_eq!(config.address().unwrap().to_string(), address);
            assert_eq!(config.tls_mode(&config.address().unwrap()), tls, "{url}");
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = serde_json::from_value::<Config>(serde_json::json!({
            "url": "postgres://host/db", "reader": {"user": "r"}, "conections_max": 3
        }))
        .unwrap_err();
        assert!(error.to_string().contains("unknown field `conections_max`"), "{error}");
    }
}
