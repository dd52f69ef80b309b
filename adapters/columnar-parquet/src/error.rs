//! Errors of files and of Parquet as the contract's.

use std::path::Path;

use contract::{Error, ErrorKind};
use parquet::errors::ParquetError;

/// What the operating system said of a file.
pub(crate) fn of_file(error: &std::io::Error, file: &Path) -> Error {
    let (kind, message) = match error.kind() {
        std::io::ErrorKind::NotFound => (ErrorKind::NotFound, "there is no such file"),
        std::io::ErrorKind::AlreadyExists => (ErrorKind::Conflict, "the file is there already"),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            (ErrorKind::LimitExceeded, "the disk is full")
        }
        std::io::ErrorKind::PermissionDenied => (ErrorKind::Denied, "the file may not be opened"),
        _ => (ErrorKind::Unavailable, "the file cannot be read or written"),
    };
    Error::new(kind, message).with("file", file.display()).because(error.to_string())
}

/// What went wrong while writing.
pub(crate) fn of_writing(error: ParquetError, file: &Path) -> Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(cause) => of_file(&cause, file),
            Err(cause) => Error::new(ErrorKind::Other, "the Parquet file cannot be written")
                .with("file", file.display())
                .because(cause.to_string()),
        },
        other => Error::new(ErrorKind::Other, "the Parquet file cannot be written")
            .with("file", file.display())
            .because(other.to_string()),
    }
}

/// What went wrong while reading: other bytes than were written.
pub(crate) fn of_reading(error: impl std::fmt::Display, file: &Path) -> Error {
    Error::new(ErrorKind::Corrupt, "the Parquet file is damaged")
        .with("file", file.display())
        .because(error.to_string())
}
