//! The data that is backed up: documents of which most words repeat, and narrow rows; the same for the same seed.

use std::io::{self, Write};

/// Bytes of one document's text; two kilobytes and more would be compressed by the server itself.
const DOCUMENT_BYTES: usize = 1_200;
/// What a document and its keys take in a table, about.
const DOCUMENT_ROW_BYTES: u64 = 1_300;
/// What a reading and its index entries take, about.
const READING_ROW_BYTES: u64 = 110;
/// Devices that readings belong to.
pub(crate) const DEVICES: u64 = 1_000;

/// How many rows make about so many MiB: three quarters documents.
pub(crate) fn counts(mib: u64) -> (u64, u64) {
    let bytes = mib << 20;
    (bytes * 3 / 4 / DOCUMENT_ROW_BYTES, bytes / 4 / READING_ROW_BYTES)
}

/// Numbers that look random and are the same in every run.
pub(crate) struct Seed(u64);

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, most: u64) -> u64 {
        (self.next() >> 16) % most
    }

    /// Words of two to four syllables; about a third of the bytes is left by zstd.
    fn text(&mut self, into: &mut Vec<u8>, bytes: usize) {
        const ONSETS: &[u8] = b"bdfgklmnprstvz";
        const VOWELS: &[u8] = b"aeiou";
        let end = into.len() + bytes;
        while into.len() < end {
            // Few words are most of the text, as in any language.
            let rank = self.below(64) * self.below(64);
            let mut word = Self::new(rank.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23));
            for _ in 0..2 + rank % 3 {
                for letters in [ONSETS, VOWELS] {
                    let at = usize::try_from(word.below(letters.len() as u64)).unwrap_or_default();
                    into.push(letters[at]);
                }
            }
            into.push(b' ');
            if self.below(12) == 0 {
                write!(into, "{:x} ", self.next() >> 24).unwrap_or_default();
            }
        }
        into.truncate(end);
    }
}

/// One document as `COPY` reads it: id, kind, time, text.
pub(crate) fn document(seed: &mut Seed, id: u64, line: &mut Vec<u8>) {
    line.clear();
    let (kind, day, second) = (seed.below(12), seed.below(28) + 1, seed.below(86_400));
    write!(
        line,
        "{id}\tkind-{kind}\t2026-0{}-{day:02} {:02}:{:02}:{:02}+00\t",
        seed.below(9) + 1,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
    .unwrap_or_default();
    seed.text(line, DOCUMENT_BYTES);
    line.push(b'\n');
}

/// One reading: id, device, time, value.
pub(crate) fn reading(seed: &mut Seed, id: u64, line: &mut Vec<u8>) {
    line.clear();
    let second = id % 86_400;
    writeln!(
        line,
        "{id}\t{}\t2026-10-{:02} {:02}:{:02}:{:02}+00\t{}.{:02}",
        seed.below(DEVICES) + 1,
        id / 86_400 % 28 + 1,
        second / 3600,
        second / 60 % 60,
        second % 60,
        seed.below(1_000),
        seed.below(100)
    )
    .unwrap_or_default();
}

/// All rows of one kind.
pub(crate) fn write(
    into: &mut impl Write,
    count: u64,
    row: fn(&mut Seed, u64, &mut Vec<u8>),
) -> io::Result<()> {
    let (mut seed, mut line) = (Seed::new(count), Vec::new());
    for id in 1..=count {
        row(&mut seed, id, &mut line);
        into.write_all(&line)?;
    }
    into.flush()
}
