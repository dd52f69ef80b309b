//! From the operating system's errors to kinds.

use std::io;
use std::path::Path;

use contract::{Error, ErrorKind};

/// What failed, with the path.
pub(crate) fn io_error(what: &str, path: &Path, cause: io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy => {
            ErrorKind::Conflict
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::LimitExceeded
        }
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, what).with("path", path.display()).because(cause)
}
