//! What can go wrong with a repository, and what kind of error each becomes.

use std::fmt;
use std::io;

use contract::{Error, ErrorKind};
use rustic_core::{RusticError, RusticResult};

/// Why an object could not be read, written or removed, or a run may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// It is not there.
    Missing,
    /// Its bytes are not those that were written.
    Damaged,
    /// There is no room.
    Full,
    /// The system refused.
    Denied,
    /// It was written with another key.
    Foreign,
    /// Somebody else holds the repository.
    Locked,
    /// The caller canceled.
    Canceled,
    /// The deadline passed.
    TimedOut,
    /// What the caller gave is wrong.
    Invalid,
    /// The place of the repository does not answer as it should.
    Unavailable,
}

impl FaultKind {
    fn error_kind(self) -> ErrorKind {
        match self {
            Self::Missing => ErrorKind::NotFound,
            Self::Damaged => ErrorKind::Corrupt,
            Self::Full => ErrorKind::LimitExceeded,
            Self::Denied | Self::Foreign => ErrorKind::Denied,
            Self::Locked => ErrorKind::Conflict,
            Self::Canceled => ErrorKind::Canceled,
            Self::TimedOut => ErrorKind::TimedOut,
            Self::Invalid => ErrorKind::Invalid,
            Self::Unavailable => ErrorKind::Unavailable,
        }
    }
}

/// A failure with the words for a person; it travels through the library as the source of its errors.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    message: String,
    hint: Option<String>,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The failure of a system call on a file.
    pub(crate) fn io(doing: &str, path: &str, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => FaultKind::Missing,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                FaultKind::Full
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FaultKind::Denied,
            _ => FaultKind::Unavailable,
        };
        Self::new(kind, format!("cannot {doing} `{path}`: {}", error.to_string().to_lowercase()))
    }

    pub(crate) fn damaged(path: &str, how: &str) -> Self {
        Self::new(FaultKind::Damaged, format!("`{path}` is damaged: {how}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let error = Error::new(fault.kind.error_kind(), fault.message);
        match fault.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl From<Fault> for Box<RusticError> {
    fn from(fault: Fault) -> Self {
        // Braces are places for context in the library's messages; ours has none.
        RusticError::with_source(rustic_core::ErrorKind::Backend, "the repository's files", fault)
    }
}

/// Our own failure inside an error of the library, if that is its cause.
pub(crate) fn fault_in(error: &RusticError) -> Option<&Fault> {
    let mut at = std::error::Error::source(error);
    while let Some(cause) = at {
        if let Some(fault) = cause.downcast_ref::<Fault>() {
            return Some(fault);
        }
        at = cause.source();
    }
    None
}

/// What an error of the library means to a caller. What does not come from the place of the repository comes from what is
/// in it.
pub(crate) fn fault_of(doing: &str, error: &RusticError) -> Fault {
    if let Some(fault) = fault_in(error) {
        return fault.clone();
    }
    let why = error.display_log();
    let short = why.lines().next().unwrap_or_default().trim();
    Fault::new(FaultKind::Damaged, format!("cannot {doing}: {}", short.to_lowercase()))
}

/// The same for a whole answer.
pub(crate) trait OrFault<T> {
    fn or_fault(self, doing: &str) -> Result<T, Fault>;
}

impl<T> OrFault<T> for RusticResult<T> {
    fn or_fault(self, doing: &str) -> Result<T, Fault> {
        self.map_err(|error| fault_of(doing, &error))
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn system_errors_become_kinds() {
        for (errno, kind) in [
            (Errno::NOENT, ErrorKind::NotFound),
            (Errno::NOSPC, ErrorKind::LimitExceeded),
            (Errno::DQUOT, ErrorKind::LimitExceeded),
            (Errno::ACCESS, ErrorKind::Denied),
            (Errno::ROFS, ErrorKind::Denied),
            (Errno::IO, ErrorKind::Unavailable),
        ] {
            let fault = Fault::io("write", "data/x", &errno.into());
            let error = Error::from(fault);
            assert_eq!(error.kind(), kind, "{errno:?}: {error}");
            assert!(error.message().starts_with("cannot write `data/x`: "), "{error}");
        }
    }

    #[test]
    fn a_fault_is_found_below_the_errors_of_the_library() {
        let inner: Box<RusticError> = Fault::new(FaultKind::Full, "no room for {braces}").into();
        let outer = RusticError::with_source(rustic_core::ErrorKind::Internal, "outer", inner);
        let fault = fault_of("write", &outer);
        assert_eq!((fault.kind, fault.to_string().as_str()), (FaultKind::Full, "no room for {braces}"));
        let foreign = RusticError::new(rustic_core::ErrorKind::Internal, "Blob not found");
        assert_eq!(fault_of("read the index", &foreign).kind, FaultKind::Damaged);
    }
}
