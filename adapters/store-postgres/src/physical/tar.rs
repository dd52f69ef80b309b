//! The members of a tar archive as PostgreSQL writes it, read one after the other.
//!
//! Source: POSIX.1-1988, "ustar"; PostgreSQL's `src/port/tar.c` for lengths over 8 GiB.

use contract::{Error, ErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt};

const BLOCK: usize = 512;

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    /// With what it points to.
    Link(String),
}

/// A member whose bytes come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) path: String,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) bytes: u64,
}

/// An archive that is read to its end.
pub(crate) struct Archive<R> {
    input: R,
    /// Bytes of the member that are still to come, and of what fills its last block.
    left: u64,
    fill: u64,
}

fn cut_short(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the base backup ended in the middle of {what}"))
}

fn odd(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the base backup is no archive that is understood: {what}"))
}

impl<R: AsyncRead + Unpin> Archive<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, left: 0, fill: 0 }
    }

    /// The next member; none at the end. The one before must have been read to its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Member>, Error> {
        debug_assert_eq!(self.left, 0);
        let mut block = [0; BLOCK];
        let fill = usize::try_from(self.fill).unwrap_or(0);
        self.exactly(&mut block[..fill], "a file").await?;
        self.fill = 0;
        match self.input.read(&mut block[..1]).await {
            // Two blocks of zeros should come before it; whether all of it came, the program's own end says.
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(cut_short("a header").because(error)),
        }
        self.exactly(&mut block[1..], "a header").await?;
        if block.iter().all(|byte| *byte == 0) {
            let mut rest = vec![0; 64 << 10];
            loop {
                match self.input.read(&mut rest).await {
                    Ok(0) => return Ok(None),
                    Ok(read) if rest[..read].iter().all(|byte| *byte == 0) => {}
                    Ok(_) => return Err(odd("there is more after its end")),
                    Err(error) => return Err(cut_short("its end").because(error)),
                }
            }
        }
        let member = header(&block)?;
        self.left = member.bytes;
        self.fill = member.bytes.next_multiple_of(BLOCK as u64) - member.bytes;
        Ok(Some(member))
    }

    /// The next at most `most` bytes of the member; empty at its end.
    pub(crate) async fn read(&mut self, most: usize) -> Result<Vec<u8>, Error> {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(most);
        let mut bytes = vec![0; length];
        self.exactly(&mut bytes, "a file").await?;
        self.left -= length as u64;
        Ok(bytes)
    }

    async fn exactly(&mut self, into: &mut [u8], what: &str) -> Result<(), Error> {
        match self.input.read_exact(into).await {
            Ok(_) => Ok(()),
            Err(error) => Err(cut_short(what).because(error)),
        }
    }
}

fn header(block: &[u8; BLOCK]) -> Result<Member, Error> {
    let text = |from: usize, to: usize| {
        let field = &block[from..to];
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        std::str::from_utf8(&field[..end]).map_err(|_| odd("a name is not UTF-8"))
    };
    let number = |from: usize, to: usize| {
        let field = &block[from..to];
        if field[0] & 0x80 != 0 {
            // In base 256, for lengths that the octal digits have no room for.
            let digits = field[1..].iter().skip_while(|byte| **byte == 0);
            return digits
                .clone()
                .count()
                .le(&8)
                .then(|| digits.fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
        }
        let digits: String = field.iter().map(|byte| char::from(*byte)).collect();
        u64::from_str_radix(digits.trim_matches(['\0', ' ']), 8).ok()
    };
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*byte) })
        .sum();
    if number(148, 156) != Some(sum) {
        return Err(odd("the checksum of a header is wrong"));
    }
    let (name, prefix) = (text(0, 100)?, text(345, 500)?);
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
    let path = path.strip_prefix("./").unwrap_or(&path).trim_end_matches('/').to_owned();
    let is_inside = !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !is_inside && !path.is_empty() {
        return Err(odd("a name leads out of it").with("name", path));
    }
    let kind = match block[156] {
        b'0' | 0 => Kind::File,
        b'5' => Kind::Folder,
        b'2' => Kind::Link(text(157, 257)?.to_owned()),
        other => return Err(odd("a member is of a kind that is not expected").with("kind", other)),
    };
    let mode = number(100, 108).ok_or_else(|| odd("a mode is no number"))?;
    let bytes = match kind {
        Kind::File => number(124, 136).ok_or_else(|| odd("a length is no number"))?,
        _ => 0,
    };
    Ok(Member { path, kind, mode: u32::try_from(mode & 0o7777).unwrap_or(0o600), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &str, kind: u8, bytes: u64, link: &str) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000640");
        if bytes < 1 << 33 {
            block[124..136].copy_from_slice(format!("{bytes:011o} ").as_bytes());
        } else {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&bytes.to_be_bytes());
        }
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[tokio::test]
    async fn members_come_in_their_order_and_to_their_ends() {
        let mut bytes = block("base/", b'5', 0, "");
        bytes.extend(block("base/1", b'0', 600, ""));
        bytes.extend([7; 600]);
        bytes.extend([0; 424]);
        bytes.extend(block("pg_tblspc/16384", b'2', 0, "/mnt/fast"));
        bytes.extend(block("empty", b'0', 0, ""));
        bytes.extend([0; 1024]);
        let mut archive = Archive::new(&bytes[..]);
        let member = archive.next().await.unwrap().unwrap();
        assert_eq!((member.path.as_str(), &member.kind, member.mode), ("base", &Kind::Folder, 0o640));
        let member = archive.next().await.unwrap().unwrap();
        assert_eq!((member.path.as_str(), member.bytes), ("base/1", 600));
        assert_eq!(archive.read(512).await.unwrap(), [7; 512]);
        assert_eq!(archive.read(512).await.unwrap(), [7; 88]);
        assert_eq!(archive.read(512).await.unwrap(), Vec::<u8>::new());
        let member = archive.next().await.unwrap().unwrap();
        assert_eq!(member.kind, Kind::Link("/mnt/fast".into()));
        assert_eq!(archive.next().await.unwrap().unwrap().bytes, 0);
        assert_eq!(archive.next().await.unwrap(), None);
        for cut in [100, 700, 1_300] {
            let mut archive = Archive::new(&bytes[..cut]);
            let mut read = async || {
                while let Some(member) = archive.next().await? {
                    let mut left = member.bytes;
                    while left > 0 {
                        left -= archive.read(4_096).await?.len() as u64;
                    }
                }
                Ok::<_, Error>(())
            };
            assert!(read().await.is_err(), "{cut} bytes");
        }
        let mut changed = bytes.clone();
        changed[3] = b'x';
        assert!(Archive::new(&changed[..]).next().await.is_err());
    }

    #[test]
    fn lengths_beyond_octal_are_read() {
        let header = |bytes: &[u8]| header(bytes.try_into().unwrap());
        let member = header(&block("large", b'0', 20 << 30, "")).unwrap();
        assert_eq!(member.bytes, 20 << 30);
        for name in ["/etc/passwd", "../x", "a/../x", "a//b"] {
            assert!(header(&block(name, b'0', 0, "")).is_err(), "{name}");
        }
        assert!(header(&block("fifo", b'6', 0, "")).is_err());
    }
}
