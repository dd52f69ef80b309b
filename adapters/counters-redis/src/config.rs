//! Where the server is.

use contract::{Error, ErrorKind};
use url::Url;

/// The server of shared counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// Its address without credentials: `redis://host:6379/0`.
    pub url: String,
    /// The user, where the server has several.
    pub user: Option<String>,
}

/// An address that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub host: String,
    pub port: u16,
    pub database: u32,
}

impl RedisConfig {
    /// Checks the address.
    ///
    /// # Errors
    ///
    /// `Invalid`: no `redis://` address, credentials in it, or no number of a database.
    pub fn validate(&self) -> Result<(), Error> {
        self.address().map(drop)
    }

    pub(crate) fn address(&self) -> Result<Address, Error> {
        let wrong = |why: &str| {
            Err(Error::new(ErrorKind::Invalid, why.to_owned())
                .with("key", "url")
                .hint("write it as `redis://host:6379/0`"))
        };
        let Ok(url) = Url::parse(&self.url) else { return wrong("this is no URL") };
        if url.scheme() != "redis" {
            return wrong("only `redis://` is spoken; TLS needs a tunnel");
        }
        if url.password().is_some() || !url.username().is_empty() {
            return wrong("the URL contains a login");
        }
        let Some(host) = url.host_str() else { return wrong("the URL names no host") };
        let path = url.path().trim_start_matches('/');
        let database = if path.is_empty() { Ok(0) } else { path.parse() };
        let Ok(database) = database else { return wrong("the database is no number") };
        Ok(Address {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(6379),
            database,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let address = |url: &str| RedisConfig { url: url.into(), user: None }.address();
        let found = address("redis://counters.internal/3").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found, Address { host: "counters.internal".into(), port: 6379, database: 3 });
        for (url, says) in [
            ("counters", "no URL"),
            ("rediss://counters", "tunnel"),
            ("redis://:secret@counters", "contains a login"),
            ("redis://counters/x", "no number"),
        ] {
            let error = address(url).expect_err(url);
            assert!(
                error.to_string().contains(says) && !error.to_string().contains("secret"),
                "{url}: {error}"
            );
        }
    }
}
