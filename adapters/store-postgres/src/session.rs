//! Connections: opening one with a login, knowing its rights, stopping what it runs.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{Context, Error, ErrorKind, Login, Retry, SecretSource};
use secrecy::ExposeSecret;
use tokio::sync::OnceCell;
use tokio_postgres::config::SslMode;
use tokio_postgres::{CancelToken, Client};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{Address, Config, LoginConfig, Tls};
use crate::error::translate;
use crate::tls;

/// The oldest server whose catalog we read.
const VERSION_MIN: u32 = 13;
/// Longest wait for the server to take note of a cancellation.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Which of the configured logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Write,
    Administer,
    /// With the reading login, and the settings that the server gives to everyone.
    Observe,
}

/// Opens sessions.
pub(crate) struct Opener {
    pub(crate) config: Config,
    pub(crate) address: Address,
    mode: Tls,
    secrets: Arc<dyn SecretSource>,
    connector: OnceCell<MakeRustlsConnect>,
}

/// One connection.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) rights: Rights,
    pub(crate) connect_ms: f64,
    pub(crate) idle_since: Instant,
    connector: MakeRustlsConnect,
}

/// What the server says of the login.
#[derive(Debug, Clone)]
pub(crate) struct Rights {
    pub(crate) login: Login,
    /// Predefined roles that reach beyond the database.
    pub(crate) reaching_roles: Vec<String>,
    pub(crate) encrypted: bool,
    pub(crate) version: String,
    /// Such as 170004.
    pub(crate) version_num: i32,
}

impl Opener {
    pub(crate) fn new(config: Config, secrets: Arc<dyn SecretSource>) -> Result<Self, Error> {
        config.validate()?;
        let (address, mode) = (config.address()?, config.tls_mode()?);
        Ok(Self { config, address, mode, secrets, connector: OnceCell::new() })
    }

    /// The login for a purpose, if it is configured.
    pub(crate) fn login(&self, purpose: Purpose) -> Option<&LoginConfig> {
        match purpose {
            Purpose::Read | Purpose::Observe => Some(&self.config.reader),
            Purpose::Write => self.config.writer.as_ref(),
            Purpose::Administer => self.config.admin.as_ref(),
        }
    }

    /// Connects with the login for `purpose`.
    ///
    /// The caller runs this inside the context's deadline; the configured connect timeout applies besides.
    pub(crate) async fn open(&self, ctx: &Context, purpose: Purpose) -> Result<Session, Error> {
        let Some(login) = self.login(purpose) else {
            let (key, what) =
                if purpose == Purpose::Write { ("writer", "writes") } else { ("admin", "administers") };
            return Err(Error::new(ErrorKind::Denied, format!("no login that {what} is configured"))
                .with("key", key)
                .hint(format!("set `{key}: {{ user: …, password_secret: … }}` for this store")));
        };
        let timeout = Duration::from_millis(self.config.connect_timeout_ms);
        match tokio::time::timeout(timeout, self.connect(ctx, login, purpose)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::new(ErrorKind::Unavailable, "the server does not answer")
                .with("address", &self.address)
                .with("connect_timeout_ms", self.config.connect_timeout_ms)
                .hint("check that the address is right and that no firewall is in between")),
        }
    }

    async fn connect(&self, ctx: &Context, login: &LoginConfig, purpose: Purpose) -> Result<Session, Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&self.address.host)
            .port(self.address.port)
            .dbname(&self.address.database)
            .user(&login.user)
            .application_name("steward")
            .ssl_mode(match self.mode {
                Tls::Disable => SslMode::Disable,
                Tls::Prefer => SslMode::Prefer,
                Tls::Require | Tls::Verify => SslMode::Require,
            })
            .options(self.options(purpose));
        if let Some(name) = &login.password_secret {
            let password = self.secrets.secret(ctx, name).await.map_err(|error| {
                if error.kind() != ErrorKind::NotFound || purpose == Purpose::Administer || self.config.admin.is_none() {
                    return error;
                }
                error.hint(format!(
                    "`steward store setup` makes this login and its password; if it exists: `steward secret put {name}`"
                ))
            })?;
            config.password(password.expose_secret());
        }
        let connector = self.connector.get_or_try_init(|| async {
            let (mode, file) = (self.mode, self.config.tls_ca_file.clone());
            tokio::task::spawn_blocking(move || tls::connector(mode, file.as_deref()))
                .await
                .map_err(|error| Error::new(ErrorKind::Other, "cannot set up TLS").because(error))?
        });
        let connector = connector.await?.clone();
        let started = Instant::now();
        let (client, connection) =
            config.connect(connector.clone()).await.map_err(|error| self.cannot_connect(&error, login))?;
        let version = connection.parameter("server_version").unwrap_or_default().to_owned();
        let number = version.split([' ', '.']).next().and_then(|major| major.parse::<u32>().ok());
        // Ends by itself when the client is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %translate(&error), "connection ended");
            }
        });
        if number.is_none_or(|major| major < VERSION_MIN) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the server is too old: PostgreSQL {version}"),
            )
            .with("address", &self.address)
            .hint(format!("PostgreSQL {VERSION_MIN} or later is needed")));
        }
        let row = client
            .query_one(include_str!("sql/session.sql"), &[])
            .await
            .map_err(|error| translate(&error).with("address", &self.address))?;
        let rights = Rights {
            login: Login {
                user: row.get("user"),
                superuser: row.get("superuser"),
                owner: row.get("owner"),
                can_write: row.get("can_write"),
            },
            reaching_roles: row.get("reaching_roles"),
            encrypted: row.get("encrypted"),
            version: version.split(' ').next().unwrap_or_default().to_owned(),
            version_num: row.get("version_num"),
        };
        let connect_ms = started.elapsed().as_secs_f64() * 1e3;
        Ok(Session { client, rights, connect_ms, idle_since: Instant::now(), connector })
    }

    /// Settings of the session: texts in one form on every server, and in reading sessions no writes.
    fn options(&self, purpose: Purpose) -> String {
        let purpose = match purpose {
            Purpose::Observe => return "-c default_transaction_read_only=on".to_owned(),
            Purpose::Read => "default_transaction_read_only=on",
            // A limit set for the role would cut index builds; each transaction sets its own.
            Purpose::Write | Purpose::Administer => "statement_timeout=0",
        };
        format!(
            "-c datestyle=ISO,YMD -c intervalstyle=iso_8601 -c timezone=UTC -c bytea_output=hex -c extra_float_digits=1 \
             -c standard_conforming_strings=on -c idle_in_transaction_session_timeout=60000 -c lock_timeout={} \
             -c {purpose}",
            self.config.lock_timeout_ms
        )
    }

    fn cannot_connect(&self, error: &tokio_postgres::Error, login: &LoginConfig) -> Error {
        let translated = translate(error);
        let about = |error: Error| error.with("address", &self.address).with("user", &login.user);
        if error.as_db_error().is_some() {
            if translated.kind() == ErrorKind::Denied {
                let error = about(Error::new(
                    ErrorKind::Denied,
                    format!("the server refused the login `{}`", login.user),
                ))
                .because(translated.message().to_owned());
                return match &login.password_secret {
                    Some(secret) => error
                        .with("password_secret", secret)
                        .hint(format!(
                            "`steward secret put {secret}` stores another password; `steward store setup` makes the login"
                        )),
                    None => error.hint("no `password_secret` is set for this login"),
                };
            }
            return about(translated);
        }
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        let text = error.to_string();
        if text.contains("TLS") {
            let error = about(Error::new(ErrorKind::Unavailable, "no encrypted connection to the server"))
                .with_retry(Retry::Never)
                .because(source.clone());
            return if source.contains("does not support TLS") {
                error.hint("switch TLS on at the server, or choose another `tls` for this store")
            } else {
                error.hint("`tls: verify` needs the server's certificate authority: set `tls_ca_file`")
            };
        }
        if text.starts_with("invalid configuration") {
            return about(Error::new(
                ErrorKind::Denied,
                format!("the server refused the login `{}`", login.user),
            ))
            .because(source)
            .hint("the server asks for a password: set `password_secret` for this login");
        }
        about(Error::new(ErrorKind::Unavailable, "cannot reach the server"))
            .because(if source.is_empty() { text } else { source })
            .hint("check that the server runs and that the address is right")
    }
}

impl Session {
    /// What stops the running statement from outside.
    pub(crate) fn stopper(&self) -> Stopper {
        Stopper { token: self.client.cancel_token(), connector: self.connector.clone() }
    }
}

/// Stops what a session runs.
pub(crate) struct Stopper {
    token: CancelToken,
    connector: MakeRustlsConnect,
}

impl Stopper {
    /// Asks the server to stop the statement; when this returns, it has been told.
    pub(crate) async fn stop(self) {
        let stop = self.token.cancel_query(self.connector);
        if let Ok(Err(error)) = tokio::time::timeout(CANCEL_TIMEOUT, stop).await {
            tracing::debug!(error = %translate(&error), "cannot cancel the statement; it ends with its connection");
        }
    }

    /// The same in the background, for a future that was dropped.
    pub(crate) fn stop_later(self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(self.stop()));
        }
    }
}
