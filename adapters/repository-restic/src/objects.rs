//! The place where a repository's files lie, as far as a repository needs it: files that are written once.

use bytes::Bytes;
use jiff::Timestamp;

use crate::error::Fault;

/// A file as a listing gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Relative to the repository.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) modified: Timestamp,
}

/// Files under paths that are relative to the repository, with `/` between. All calls block.
pub(crate) trait Objects: Send + Sync + 'static {
    /// Where it is, without credentials.
    fn address(&self) -> String;

    /// Makes what must be there before the first file.
    fn prepare(&self) -> Result<(), Fault>;

    /// All files below a folder, in no order; none where the folder is missing. A listing that is not complete is an error.
    fn list(&self, folder: &str) -> Result<Vec<Found>, Fault>;

    /// A whole file.
    fn read(&self, path: &str) -> Result<Bytes, Fault>;

    /// Exactly `length` bytes of a file, or an error.
    fn read_range(&self, path: &str, start: u64, length: u64) -> Result<Bytes, Fault>;

    /// Writes a file that is complete and durable once this returns, and not there at all otherwise. A file of this name with
    /// the same bytes is left; one with others is an error.
    fn create(&self, path: &str, content: &[Bytes]) -> Result<(), Fault>;

    /// Takes a file away; one that is not there is no error.
    fn remove(&self, path: &str) -> Result<(), Fault>;

    /// Moves a file to where the repository does not look.
    fn put_aside(&self, path: &str, to: &str) -> Result<(), Fault>;

    /// What `create` has left where it was interrupted; `remove` takes it away.
    fn unfinished(&self) -> Result<Vec<Found>, Fault>;

    /// Why what is written can be changed or deleted; `None` where the storage itself forbids it.
    fn changeable(&self) -> Result<Option<String>, Fault> {
        Ok(Some(format!(
            "whoever may write to the folder `{}` can change and delete what is in it",
            self.address()
        )))
    }

    /// Makes the storage's own protection last longer for what is still there; gives for how many files.
    fn prolong(&self) -> Result<u64, Fault> {
        Ok(0)
    }

    /// Takes away for good what was removed and whose protection has ended; gives how many bytes.
    fn sweep(&self) -> Result<u64, Fault> {
        Ok(0)
    }
}
