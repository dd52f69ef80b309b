//! Log lines on standard error.

use std::io::IsTerminal;

use contract::{Error, ErrorKind};
use tracing_subscriber::EnvFilter;

/// Starts logging with a level or filter.
///
/// # Errors
///
/// `Invalid`: the filter cannot be read.
pub(crate) fn start(filter: &str) -> Result<(), Error> {
    let filter = EnvFilter::try_new(filter).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "this is no log filter")
            .with("flag", "--log")
            .because(cause)
            .hint("use error, warn, info, debug, or a filter such as `stores=debug`")
    })?;
    // A second start in one process (tests) keeps the first subscriber.
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr);
    drop(subscriber.try_init());
    Ok(())
}
