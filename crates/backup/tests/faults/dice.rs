//! Numbers that follow from a seed, and damage to files.

use std::path::Path;

pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % bound
    }

    pub(crate) fn one_of<T: Copy>(&mut self, some: &[T]) -> T {
        some[self.below(some.len())]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    Bit,
    Cut,
    Empty,
    Gone,
}

impl Harm {
    pub(crate) fn any(dice: &mut Dice) -> Self {
        dice.one_of(&[Self::Bit, Self::Cut, Self::Empty, Self::Gone])
    }

    pub(crate) fn apply(self, file: &Path, dice: &mut Dice) {
        let mut bytes = std::fs::read(file).unwrap();
        let at = dice.below(bytes.len().max(1));
        match self {
            Self::Gone => return std::fs::remove_file(file).unwrap(),
            Self::Empty => bytes.clear(),
            Self::Cut => bytes.truncate(at),
            Self::Bit => bytes[at] ^= 1 << dice.below(8),
        }
        // Files of a repository are read-only.
        std::fs::remove_file(file).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
}
