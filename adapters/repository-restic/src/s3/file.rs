//! Objects that are files of this machine: written and read a part at a time.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bytes::Bytes;

use super::{Bucket, odd};
use crate::error::{Fault, FaultKind};
use crate::objects::Objects as _;

/// What an object is written from.
pub(super) enum Content<'a> {
    Held(&'a Bytes),
    /// A file of this length.
    File(&'a Path, usize),
}

impl Content<'_> {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Held(bytes) => bytes.len(),
            Self::File(_, bytes) => *bytes,
        }
    }

    /// At most so many bytes from there.
    pub(super) fn piece(&self, start: usize, most: usize) -> Result<Bytes, Fault> {
        let length = self.bytes().saturating_sub(start).min(most);
        match self {
            Self::Held(bytes) => Ok(bytes.slice(start..start + length)),
            Self::File(path, _) => {
                let read = || {
                    let mut file = File::open(path)?;
                    file.seek(SeekFrom::Start(start as u64))?;
                    let mut piece = vec![0; length];
                    file.read_exact(&mut piece)?;
                    Ok(Bytes::from(piece))
                };
                read().map_err(|error| Fault::io("read", &path.display().to_string(), &error))
            }
        }
    }
}

impl Bucket {
    /// Whether an object with these bytes is there.
    pub(super) fn holds_all(&self, path: &str, content: &Content<'_>) -> Result<Option<bool>, Fault> {
        let bytes = match content {
            Content::Held(bytes) => return self.holds(path, bytes),
            Content::File(_, bytes) => *bytes,
        };
        let whole = |body: &Bytes| {
            let mut same = body.len() == bytes;
            for start in (0..bytes).step_by(self.part_bytes) {
                same = same
                    && content.piece(start, self.part_bytes)?
                        == body[start..body.len().min(start + self.part_bytes)];
            }
            Ok::<_, Fault>(same)
        };
        for start in (0..bytes).step_by(self.part_bytes) {
            let piece = content.piece(start, self.part_bytes)?;
            // One byte more than the last part has: an object that is longer is another.
            let last = start + piece.len() == bytes;
            let end = start + piece.len() - usize::from(!last);
            match self.get(path, None, Some((start as u64, end as u64))) {
                Ok(answer) if answer.status == 206 && answer.body == piece => {}
                Ok(answer) if answer.status == 200 => return whole(&answer.body).map(Some),
                Ok(_) => return Ok(Some(false)),
                Err(fault) if fault.kind == FaultKind::Missing => return Ok(None),
                Err(fault) => return Err(fault),
            }
        }
        Ok(Some(true))
    }

    /// Writes an object from a file. As `create`: complete and durable once this returns, and not there at all otherwise.
    pub(crate) fn put_file(&self, path: &str, file: &Path) -> Result<(), Fault> {
        let failed = |error: &std::io::Error| Fault::io("read", &file.display().to_string(), error);
        let bytes = file.metadata().map_err(|error| failed(&error))?.len();
        let bytes = usize::try_from(bytes).map_err(|_| odd("a file is longer than memory can be"))?;
        if bytes <= self.part_bytes {
            let body = std::fs::read(file).map_err(|error| failed(&error))?;
            return self.create(path, &[Bytes::from(body)]);
        }
        let content = Content::File(file, bytes);
        match self.put_in_parts(path, &content) {
            // It was written while nobody told us so.
            Err(fault)
                if fault.kind == FaultKind::Unavailable
                    && matches!(self.holds_all(path, &content), Ok(Some(true))) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Writes an object into a new file with mode 0600. That it came to its end is not said by the server alone: whoever knows its
    /// length and hash compares them.
    pub(crate) fn fetch_file(&self, path: &str, file: &Path) -> Result<(), Fault> {
        let failed = |error: &std::io::Error| Fault::io("write", &file.display().to_string(), error);
        let version = self.version_of(path)?;
        let mut target: Option<File> = None;
        let mut start = 0;
        loop {
            let end = start + self.part_bytes as u64 - 1;
            let answer = self.get(path, version.as_deref(), Some((start, end)))?;
            // The file is made when there is an object.
            let target = match &mut target {
                Some(target) => target,
                none => none.insert(
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(
                        |error| match error.kind() {
                            std::io::ErrorKind::AlreadyExists => Fault::new(
                                FaultKind::Locked,
                                format!("the file `{}` is there already", file.display()),
                            ),
                            _ => failed(&error),
                        },
                    )?,
                ),
            };
            // Behind its last byte.
            if answer.status == 416 {
                return Ok(());
            }
            target.write_all(&answer.body).map_err(|error| failed(&error))?;
            // A server that knows no ranges gives all.
            if answer.status == 200 || answer.body.len() < self.part_bytes {
                return Ok(());
            }
            start += self.part_bytes as u64;
        }
    }
}
