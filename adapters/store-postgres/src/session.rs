//! Connections: opening one with a login, knowing its rights, stopping what it runs.

use std::error::Error as _;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use contract::{Context, Error, ErrorKind, Login, Retry, SecretSource};
use secrecy::ExposeSecret;
use tokio::sync::OnceCell;
use tokio_postgres::config::SslMode;
use tokio_postgres::{CancelToken, Client, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::backup::Libpq;
use crate::config::{Address, Config, LoginConfig, Tls};
use crate::error::translate;
use crate::tls;

/// The oldest server whose catalog we read.
const VERSION_MIN: u32 = 13;
/// SQLSTATE of a refused connection where there is no place for one more.
const TOO_MANY_CONNECTIONS: &str = "53300";
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
    /// The same with the administering login, for the moment in which ordinary logins find no place.
    ObserveInNeed,
}

/// Whether the server, the database or the login has as many connections as it may.
pub(crate) fn is_full(error: &Error) -> bool {
    error.context().iter().any(|(key, value)| *key == "code" && value == TOO_MANY_CONNECTIONS)
}

/// Opens sessions.
pub(crate) struct Opener {
    pub(crate) config: Config,
    pub(crate) address: Address,
    /// Past a pooler, for what needs a session of its own.
    direct: Option<Address>,
    /// How we know that something in front of `address` shares sessions, once we know.
    pooler: Mutex<Option<String>>,
    secrets: Arc<dyn SecretSource>,
    connector: OnceCell<MakeRustlsConnect>,
}

/// One connection.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) rights: Rights,
    pub(crate) connect_ms: f64,
    pub(crate) idle_since: Instant,
    /// Something in between hands each transaction to any session of the server; how we know.
    pub(crate) pooler: Option<String>,
    /// What a transaction begins with, besides its own: settings that behind a pooler the session cannot hold.
    pub(crate) prelude: String,
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
    /// The server is a copy that only reads.
    pub(crate) standby: bool,
}

impl Opener {
    pub(crate) fn new(config: Config, secrets: Arc<dyn SecretSource>) -> Result<Self, Error> {
        config.validate()?;
        let (address, direct) = (config.address()?, config.direct_address()?);
        let pooler = Mutex::new(None);
        Ok(Self { config, address, direct, pooler, secrets, connector: OnceCell::new() })
    }

    /// The same for another database of the server, past a pooler.
    pub(crate) fn of_database(&self, database: &str) -> Self {
        let mut address = self.direct.clone().unwrap_or_else(|| self.address.clone());
        database.clone_into(&mut address.database);
        Self {
            config: self.config.clone(),
            address,
            direct: None,
            pooler: Mutex::new(None),
            secrets: Arc::clone(&self.secrets),
            connector: OnceCell::new(),
        }
    }

    /// How PostgreSQL's own programs of this major version reach the same database with the same login.
    pub(crate) async fn libpq(&self, ctx: &Context, purpose: Purpose, major: u32) -> Result<Libpq, Error> {
        const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
        let address = self.address_for(purpose);
        let Some(login) = self.login(purpose) else {
            return Err(Error::new(ErrorKind::Denied, "no login for it is configured"));
        };
        let mut variables = vec![
            ("PGHOST", address.host.clone()),
            ("PGPORT", address.port.to_string()),
            ("PGDATABASE", address.database.clone()),
            ("PGUSER", login.user.clone()),
            ("PGAPPNAME", "steward".to_owned()),
            ("PGCONNECT_TIMEOUT", self.config.connect_timeout_ms.div_ceil(1_000).to_string()),
        ];
        let mode = self.config.tls_mode(address);
        let word = match mode {
            Tls::Disable => "disable",
            Tls::Prefer => "prefer",
            Tls::Require => "require",
            Tls::Verify => "verify-full",
        };
        variables.push(("PGSSLMODE", word.to_owned()));
        if mode == Tls::Verify {
            let authorities = match &self.config.tls_ca_file {
                Some(file) => file.display().to_string(),
                // The operating system's own, since libpq 16.
                None if major >= 16 => "system".to_owned(),
                None => AUTHORITIES.to_owned(),
            };
            variables.push(("PGSSLROOTCERT", authorities));
        } else {
            // Not what lies in someone's home.
            variables.push(("PGSSLROOTCERT", "/nonexistent".to_owned()));
        }
        if let Some(name) = &login.password_secret {
            variables.push(("PGPASSWORD", self.secrets.secret(ctx, name).await?.expose_secret().to_owned()));
        }
        Ok(Libpq(variables))
    }

    /// Where sessions for a purpose lead: only reading ones may be shared with others.
    pub(crate) fn address_for(&self, purpose: Purpose) -> &Address {
        self.direct.as_ref().filter(|_| purpose != Purpose::Read).unwrap_or(&self.address)
    }

    /// The login for a purpose, if it is configured.
    pub(crate) fn login(&self, purpose: Purpose) -> Option<&LoginConfig> {
        match purpose {
            Purpose::Read | Purpose::Observe => Some(&self.config.reader),
            Purpose::Write => self.config.writer.as_ref(),
            Purpose::Administer | Purpose::ObserveInNeed => self.config.admin.as_ref(),
        }
    }

    /// The same with another purpose where there is no place left for the first one's login, and one is configured
    /// for the second. Says which it was.
    pub(crate) async fn open_or(
        &self,
        ctx: &Context,
        purpose: Purpose,
        in_need: Purpose,
    ) -> Result<(Session, Purpose), Error> {
        match self.open(ctx, purpose).await {
            Err(error) if is_full(&error) && self.login(in_need).is_some() => {
                // Where that one is refused too, the first refusal is what there is to know.
                let session = self.open(ctx, in_need).await.map_err(|_| error)?;
                Ok((session, in_need))
            }
            answer => Ok((answer?, purpose)),
        }
    }

    /// Connects with the login for `purpose`.
    ///
    /// The caller runs this inside the context's deadline; the configured connect timeout applies besides.
    pub(crate) async fn open(&self, ctx: &Context, purpose: Purpose) -> Result<Session, Error> {
        self.open_as(ctx, purpose, None).await
    }

    /// The same for a reading session beside one that is ours alone: with what that one was told of login and server,
    /// which is dear to ask where there are many tables.
    pub(crate) async fn open_beside(&self, ctx: &Context, rights: &Rights) -> Result<Session, Error> {
        self.open_as(ctx, Purpose::Read, Some(rights)).await
    }

    async fn open_as(
        &self,
        ctx: &Context,
        purpose: Purpose,
        rights: Option<&Rights>,
    ) -> Result<Session, Error> {
        let Some(login) = self.login(purpose) else {
            let (key, what) =
                if purpose == Purpose::Write { ("writer", "writes") } else { ("admin", "administers") };
            return Err(Error::new(ErrorKind::Denied, format!("no login that {what} is configured"))
                .with("key", key)
                .hint(format!("set `{key}: {{ user: …, password_secret: … }}` for this store")));
        };
        let timeout = Duration::from_millis(self.config.connect_timeout_ms);
        match tokio::time::timeout(timeout, Box::pin(self.connect(ctx, login, purpose, rights))).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::new(ErrorKind::Unavailable, "the server does not answer")
                .with("address", self.address_for(purpose))
                .with("connect_timeout_ms", self.config.connect_timeout_ms)
                .hint("check that the address is right and that no firewall is in between")),
        }
    }

    async fn connect(
        &self,
        ctx: &Context,
        login: &LoginConfig,
        purpose: Purpose,
        rights: Option<&Rights>,
    ) -> Result<Session, Error> {
        let address = self.address_for(purpose);
        let mode = self.config.tls_mode(address);
        let known = if address == &self.address {
            self.pooler.lock().unwrap_or_else(PoisonError::into_inner).clone()
        } else {
            None
        };
        let mut config = tokio_postgres::Config::new();
        config
            .host(&address.host)
            .port(address.port)
            .dbname(&address.database)
            .user(&login.user)
            .application_name("steward")
            .ssl_mode(match mode {
                Tls::Disable => SslMode::Disable,
                Tls::Prefer => SslMode::Prefer,
                Tls::Require | Tls::Verify => SslMode::Require,
            });
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
            let file = self.config.tls_ca_file.clone();
            tokio::task::spawn_blocking(move || tls::connector(mode, file.as_deref()))
                .await
                .map_err(|error| Error::new(ErrorKind::Other, "cannot set up TLS").because(error))?
        });
        let connector = connector.await?.clone();
        let started = Instant::now();
        let settings = self.settings(purpose);
        let mut pooler = known;
        let without = config.clone();
        if pooler.is_none() {
            let options: Vec<String> =
                settings.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
            config.options(options.join(" "));
        }
        let mut answer = config.connect(connector.clone()).await;
        // Settings at the start of a session are refused where the session is not ours alone.
        if let Err(error) = &answer
            && let Some(server) = error.as_db_error()
            && server.message().contains("unsupported startup parameter")
        {
            pooler = Some(format!("it answers: {}", server.message()));
            answer = without.connect(connector.clone()).await;
        }
        let (client, connection) = answer.map_err(|error| Self::cannot_connect(&error, login, address))?;
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
            .with("address", address)
            .hint(format!("PostgreSQL {VERSION_MIN} or later is needed")));
        }
        if let Some(rights) = rights.filter(|_| pooler.is_none()) {
            let connect_ms = started.elapsed().as_secs_f64() * 1e3;
            let (rights, prelude) = (rights.clone(), String::new());
            return Ok(Session {
                client,
                rights,
                connect_ms,
                idle_since: Instant::now(),
                pooler,
                prelude,
                connector,
            });
        }
        // The simple protocol: one message, which no pooler can spread over two sessions.
        let failed = |error: tokio_postgres::Error| translate(&error).with("address", address);
        let answers = client.simple_query(include_str!("sql/session.sql")).await.map_err(failed)?;
        let row = answers
            .iter()
            .find_map(|answer| match answer {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .ok_or_else(|| Error::new(ErrorKind::Denied, "the server does not know our login"))?;
        let text = |name: &str| row.get(name).unwrap_or_default();
        let holds = |name: &str| text(name) == "t";
        let rights = Rights {
            login: Login {
                user: text("user").to_owned(),
                superuser: holds("superuser"),
                owner: holds("owner"),
                can_write: holds("can_write"),
            },
            reaching_roles: text("reaching_roles").split_whitespace().map(ToOwned::to_owned).collect(),
            encrypted: holds("encrypted"),
            version: version.split(' ').next().unwrap_or_default().to_owned(),
            version_num: text("version_num").parse().unwrap_or_default(),
            standby: holds("standby"),
        };
        if pooler.is_none() && !holds("settings_hold") {
            pooler = Some("settings at the start of the session did not arrive at the server".to_owned());
        }
        if address == &self.address {
            self.pooler.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&pooler);
        }
        let prelude = if pooler.is_some() {
            let mut prelude = String::new();
            for (name, value) in settings.iter().filter(|(name, _)| *name != "default_transaction_read_only")
            {
                write!(prelude, "; SET LOCAL {name} = '{value}'").expect("writing to a string does not fail");
            }
            format!("{prelude}; {}", include_str!("sql/leftovers.sql"))
        } else {
            String::new()
        };
        let connect_ms = started.elapsed().as_secs_f64() * 1e3;
        Ok(Session { client, rights, connect_ms, idle_since: Instant::now(), pooler, prelude, connector })
    }

    /// Settings of the session: texts in one form on every server, and in reading sessions no writes.
    fn settings(&self, purpose: Purpose) -> Vec<(&'static str, String)> {
        let purpose = match purpose {
            Purpose::Observe | Purpose::ObserveInNeed => {
                return vec![("default_transaction_read_only", "on".into())];
            }
            Purpose::Read => vec![("default_transaction_read_only", "on".into())],
            // A limit set for the role would cut index builds; each transaction sets its own. A database that is set to
            // read only must still be set back by us.
            Purpose::Write | Purpose::Administer => {
                vec![("statement_timeout", "0".into()), ("default_transaction_read_only", "off".into())]
            }
        };
        let mut settings: Vec<(&'static str, String)> = vec![
            ("datestyle", "ISO,YMD".into()),
            ("intervalstyle", "iso_8601".into()),
            ("timezone", "UTC".into()),
            ("bytea_output", "hex".into()),
            ("extra_float_digits", "1".into()),
            ("standard_conforming_strings", "on".into()),
            ("idle_in_transaction_session_timeout", "60000".into()),
            ("lock_timeout", self.config.lock_timeout_ms.to_string()),
        ];
        settings.extend(purpose);
        settings
    }

    fn cannot_connect(error: &tokio_postgres::Error, login: &LoginConfig, address: &Address) -> Error {
        let translated = translate(error);
        let about = |error: Error| error.with("address", address).with("user", &login.user);
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
